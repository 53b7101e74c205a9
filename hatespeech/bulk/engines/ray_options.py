"""The Ray engine's command-line options and its factory.

Imports Ray only when the engine is made, so that ``--help`` and the other engines work without it.
"""

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
from hatespeech.extras import how_to_install
from hatespeech.settings import EngineSettings

if TYPE_CHECKING:
    from hatespeech.bulk.engines.ray_engine import RayEngine
    from hatespeech.bulk.plan import Plan


def add_arguments(group: Any) -> None:
    """Add the engine's options to a group of an argument parser."""
    group.add_argument(
        "--address",
        type=_address,
        metavar="HOST:PORT",
        help="cluster that this machine belongs to; auto: the one that runs here (default: start "
        "Ray for this run, on this machine only)",
    )
    group.add_argument(
        "--num-actors",
        type=whole_number(1, 10_000),
        metavar="N",
        help="processes that score, each with a model (default: one for each GPU; without GPUs, "
        "one for each machine)",
    )
    group.add_argument(
        "--gpus-per-actor",
        type=_share,
        metavar="SHARE",
        help="share of a GPU for each actor, such as 0.5 for two actors on each GPU; 0: score on "
        "CPUs (default: 1 if there are GPUs)",
    )
    group.add_argument(
        "--cpus-per-actor",
        type=whole_number(1, 1024),
        metavar="N",
        help="threads of each actor (default: 1 with a GPU, else the cores of the smallest "
        "machine)",
    )
    group.add_argument(
        "--by-file",
        action=argparse.BooleanOptionalAction,
        help="each machine reads, scores and writes whole files itself, instead of being given "
        "rows by this one; every machine must find IN and OUT under the same names (default: so "
        "if they are folders, on this machine alone or at URLs; a network drive needs the option)",
    )
    group.add_argument(
        "--start-timeout",
        type=whole_number(1, 86_400),
        default=600,
        metavar="SECONDS",
        help="stop if no actor has loaded the model in this time; on a busy cluster they wait for "
        "resources first (default: %(default)s)",
    )
    group.add_argument(
        "--part-timeout",
        type=whole_number(1, 604_800),
        default=3600,
        metavar="SECONDS",
        help="stop if no part comes back in this time, for instance because a busy cluster has no "
        "room to restart a dead actor (default: %(default)s)",
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
    """Set what Ray reads from the environment when it is imported.

    ``starts`` says that the run starts its own Ray.
    """
    # Silences harmless C++ log lines that garble the progress bar.
    environment.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if starts:
        # By default Ray runs workers at niceness 15: beside two busy processes an actor gets 4 % of
        # a core. The local engine runs at the normal niceness, too.
        environment.setdefault("RAY_worker_niceness", "0")
        environment["RAY_USAGE_STATS_ENABLED"] = "0"
        # Despite its name, this makes Ray listen on the loopback address only, on every system.
        # Other users of this machine can still connect, and a client of Ray can run code. So the
        # processes also share a secret.
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        environment["RAY_AUTH_MODE"] = "token"
        environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def check(_options: argparse.Namespace, settings: EngineSettings) -> None:
    """Raise the errors of :func:`make_engine` for a missing Ray or model."""
    from hatespeech.engine.predictor import choose_folder
    from hatespeech.model.checkpoint import describe  # loads torch

    _require_ray()
    if settings.names_checkpoint:
        describe(choose_folder(settings))


def _require_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        raise EngineError(f"Ray is not installed: {how_to_install('ray')}")


def goes_by_file(options: argparse.Namespace, plan: Plan) -> bool:
    """Say whether the actors read and write whole files.

    Raises :class:`EngineError` if they are to and can't.
    """
    apart = len(plan.outputs) == len(plan.inputs)
    if options.by_file is not None:
        if options.by_file and not apart:
            raise EngineError("--by-file: several files can't go into one; give a folder as OUT")
        return bool(options.by_file)
    everywhere = options.address is None or not (plan.out.is_local or plan.inputs[0].place.is_local)
    return apart and everywhere and len(plan.inputs) > 1


def make_engine(
    options: argparse.Namespace, settings: EngineSettings, plan: Plan | None = None
) -> RayEngine:
    """Connect to Ray or start it, and return the engine that the command line asks for.

    With a ``plan``, every machine must find its files. Raises :class:`EngineError` if Ray is
    missing, can't be reached, or lacks the resources.
    """
    _require_ray()
    set_ray_defaults(os.environ, starts=options.address is None)
    try:
        from hatespeech.bulk.engines.ray_cluster import Cluster
        from hatespeech.bulk.engines.ray_engine import RayEngine
        from hatespeech.bulk.engines.ray_pool import Timeouts
        from hatespeech.bulk.reach import Reach
    except ImportError as exc:  # another version of Ray
        raise EngineError(f"Ray can't be loaded ({exc.name}): {how_to_install('ray')}") from None
    cluster = Cluster(options.address)
    try:
        actors = cluster.plan(options, settings)
        timeouts = Timeouts(options.start_timeout, options.part_timeout)
        reach = None if plan is None else Reach.of(plan)
        return RayEngine(cluster, actors, settings, timeouts, reach)
    except BaseException:
        cluster.close()
        raise
