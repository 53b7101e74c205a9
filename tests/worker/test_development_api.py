"""`python app.py --rp_serve_api`: the SDK's development server around the same handler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.labels import LABELS
from tests.support.bad_inputs import MARKER
from tests.support.processes.development_api import DevelopmentApi, development_api
from tests.support.processes.worker import clean_environment

pytestmark = pytest.mark.slow


class Api:
    """A client of a served worker."""

    def __init__(self, served: DevelopmentApi, client: httpx.Client) -> None:
        self.worker = served
        self.client = client

    def runsync(self, value: Any) -> dict[str, Any]:
        response = self.client.post("/runsync", json={"input": value})
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body


@pytest.fixture(scope="module")
def api(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("api")
    loud = {"RUNPOD_LOG_LEVEL": "DEBUG", "LOG_LEVEL": "DEBUG"}
    with (
        development_api(folder, clean_environment(folder, small_checkpoint) | loud) as served,
        httpx.Client(base_url=served.url, timeout=60) as client,
    ):
        yield Api(served, client)


def check_items(
    items: Sequence[Mapping[str, Any]], texts: Sequence[str], classifier: Predictor
) -> None:
    for item, text, expected in zip(items, texts, classifier.score(texts), strict=True):
        assert isinstance(expected, Prediction)
        assert item["text"] == text
        assert [item[label] for label in LABELS] == pytest.approx(expected.scores, abs=1e-5)


def test_runsync_scores_one_text(api: Api, small_classifier: Predictor) -> None:
    reply = api.runsync({"prompt": f"{MARKER} ☕ صباح"})
    assert reply["status"] == "COMPLETED"
    check_items([reply["output"]], [f"{MARKER} ☕ صباح"], small_classifier)
    assert reply["output"]["model"] == small_classifier.model_id


def test_runsync_scores_a_list_and_only_its_bad_item_fails(
    api: Api, small_classifier: Predictor
) -> None:
    reply = api.runsync({"prompts": ["good", "", "morning"]})
    assert reply["status"] == "COMPLETED"
    first, bad, last = reply["output"]["items"]
    check_items([first, last], ["good", "morning"], small_classifier)
    assert bad == {"text": "", "error": "validation: prompts[1]: must not be empty"}


def test_runsync_answers_a_bad_input_as_a_failed_job(api: Api) -> None:
    reply = api.runsync({"prompt": [MARKER]})
    assert reply["status"] == "FAILED"
    assert reply["error"] == "validation: prompt: must be a string"


def test_two_requests_at_once_get_their_own_scores(api: Api, small_classifier: Predictor) -> None:
    lists = [[f"{MARKER} {name} {i}" for i in range(300)] for name in ("first", "second")]
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda texts: api.runsync({"texts": texts}), lists))
    for reply, texts in zip(replies, lists, strict=True):
        check_items(reply["output"]["items"], texts, small_classifier)


def test_no_log_quotes_a_text(api: Api) -> None:
    api.runsync({"prompt": MARKER})
    assert "Uvicorn running" in api.worker.stderr
    assert MARKER not in api.worker.stdout + api.worker.stderr
