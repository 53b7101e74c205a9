"""What ``score.py`` can be told about Ray, and the engine that comes of it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import secrets
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from hatespeech.bulk.engines.base import EngineError
from hatespeech.cli import whole_number
from hatespeech.settings import EngineSettings

if TYPE_CHECKING:
    from hatespeech.bulk.engines.ray_engine import RayEngine


def add_arguments(group: Any) -> None:
    """Add the engine's options to a group of an argument parser."""
    group.add_argument(
        "--address",
        type=_address,
        metavar="HOST:PORT",
        help="a cluster that this machine belongs to; auto: the one that runs here (default: Ray "
        "is started for the run, on this machine alone)",
    )
    group.add_argument(
        "--num-actors",
        type=whole_number(1, 10_000),
        metavar="N",
        help="processes that score, a model in each (default: one for each GPU, or else one for "
        "each machine)",
    )
    group.add_argument(
        "--gpus-per-actor",
        type=_share,
        metavar="SHARE",
        help="of one GPU, such as 0.5 for two actors on each; 0: score on CPUs (default: 1 if "
        "there are GPUs)",
    )
    group.add_argument(
        "--cpus-per-actor",
        type=whole_number(1, 1024),
        metavar="N",
        help="threads of an actor (default: 1 beside a GPU, or else all of a machine)",
    )
    group.add_argument(
        "--start-timeout",
        type=whole_number(1, 86_400),
        default=600,
        metavar="SECONDS",
        help="give up when actors have not loaded the model by then; they may have to wait until "
        "others leave the cluster (default: %(default)s)",
    )
    group.add_argument(
        "--part-timeout",
        type=whole_number(1, 604_800),
        default=3600,
        metavar="SECONDS",
        help="give up when no part has come back for so long: an actor that dies may not find a "
        "place again (default: %(default)s)",
    )


def _address(value: str) -> str:
    if value.startswith("ray://"):
        raise argparse.ArgumentTypeError(
            "Ray Client is not supported: run score.py on a machine of the cluster"
        )
    if value != "auto" and not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):[0-9]{1,5}", value):
        raise argparse.ArgumentTypeError("must be HOST:PORT or auto")
    return value


def _share(value: str) -> float:
    if not re.fullmatch(r"0|1|0?\.[0-9]{1,4}", value):
        raise argparse.ArgumentTypeError("must be from 0 to 1, such as 0.25")
    return float(value)


def set_ray_defaults(environment: MutableMapping[str, str], starts: bool) -> None:
    """Set what Ray reads from the environment when it is imported."""
    # Its C++ would write errors that are none into the progress bar.
    environment.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if starts:
        # Of Ray's own accord, its processes leave the cores to any other (niceness 15): beside two
        # busy ones, actors get 4 % of a core. The local engine does not do so either.
        environment.setdefault("RAY_worker_niceness", "0")
        environment["RAY_USAGE_STATS_ENABLED"] = "0"
        # On whatever system, what this stands for is: listen on the loopback address alone. Others
        # on this machine can reach that, and whoever can talk to Ray can run code, so the
        # processes also share a secret.
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        environment["RAY_AUTH_MODE"] = "token"
        environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def check(_options: argparse.Namespace, settings: EngineSettings) -> None:
    """Raise what :func:`make_engine` would for a Ray or a model that is not there."""
    from hatespeech.engine.classifier import choose_folder
    from hatespeech.model.checkpoint import describe  # loads torch

    _require_ray()
    if settings.model_dir is not None:
        describe(choose_folder(settings))


def _require_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        raise EngineError("Ray is not installed: pip install -r requirements-ray.txt")


def make_engine(options: argparse.Namespace, settings: EngineSettings) -> RayEngine:
    """Connect to Ray, or start it, and return the engine that the command line asks for.

    Raises :class:`EngineError` if Ray is missing, out of reach, or without the resources.
    """
    _require_ray()
    set_ray_defaults(os.environ, starts=options.address is None)
    try:
        from hatespeech.bulk.engines.ray_cluster import Cluster
        from hatespeech.bulk.engines.ray_engine import RayEngine
    except ImportError as exc:  # ray without [data], or of another version
        raise EngineError(
            f"Ray Data can't be loaded ({exc.name}): pip install -r requirements-ray.txt"
        ) from None
    cluster = Cluster(options.address)
    try:
        actors = cluster.plan(options, settings)
        timeouts = (options.start_timeout, options.part_timeout)
        return RayEngine(cluster, actors, settings, *timeouts)
    except BaseException:
        cluster.close()
        raise
