"""An endpoint whose jobs the service's own handler works, in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatespeech.engine.predictor import Predictor
from hatespeech.engine.scorer import Scorer
from hatespeech.settings import EngineSettings
from hatespeech.worker.handler import JobHandler
from tests.support.stand_ins.runpod.endpoint import ENDPOINT_ID, KEY, RunpodEndpoint
from tests.support.stand_ins.snet_client import write_config


@contextlib.contextmanager
def worked_endpoint(predictor: Predictor, **settings: Any) -> Iterator[RunpodEndpoint]:
    """Start an endpoint behind which this model scores, with these settings."""
    scorer = Scorer(predictor, EngineSettings(**settings))
    with RunpodEndpoint(JobHandler(scorer)) as endpoint:
        yield endpoint
    scorer.close()


def daemon_config(folder: Path, endpoint: RunpodEndpoint, *arguments: str, key: str = KEY) -> Path:
    """Have ``scripts/daemon-config`` write a configuration for an endpoint; return its path."""
    return write_config(
        folder,
        "--endpoint-id",
        ENDPOINT_ID,
        *arguments,
        RUNPOD_API_KEY=key,
        RUNPOD_ENDPOINT_BASE_URL=endpoint.base_url,
    )
