"""Whether a server or a queue worker grows under mixed traffic: a soak that anyone can rerun.

The script starts the HTTP server, or the queue worker behind a stand-in of Runpod's job API, with
the embedded checkpoint. For some minutes it sends every kind of request, also bad input, and hangs
up midway. Meanwhile it samples resident memory, open files, threads and the size of the job file.
The first third is a warm-up with more load. For the rest the script prints slopes an hour, each
with its standard error. The exit code is 1 if one grows significantly, if a reply is not what it
must be, or if the process does not stop in order.

    python -m benchmarks.soak --front http --minutes 30
    python -m benchmarks.soak --front worker --minutes 30
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.growth import Growth, Sampler
from benchmarks.soak_traffic import Traffic, UnexpectedError, http_traffic, worker_traffic
from hatespeech.cli import make_parser

WARM_UP: Final = 1 / 3  # of the time
CLIENTS: Final = 4
# A client's mean pause between two requests: the soak is about what stays behind, not about speed.
PAUSE_SECONDS: Final = 0.1
# More load in the warm-up: an allocator keeps what a peak took, so the highest peak comes first.
WARM_UP_CLIENTS: Final = 8
WARM_UP_PAUSE_SECONDS: Final = 0.01
ROUND_SECONDS: Final = 10.0
FRONTS: Final = {"http": http_traffic, "worker": worker_traffic}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; return the exit code."""
    parser = make_parser(None, __doc__)
    parser.add_argument("--front", choices=list(FRONTS), required=True, help="what is soaked")
    parser.add_argument("--minutes", type=minutes, default=30.0, metavar="N", help="(%(default)g)")
    parser.add_argument(
        "--settling",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="multiplies what may be added after the warm-up beside the growth an hour, such as 4 "
        "MiB of memory (%(default)g); a process settles for ten minutes, so a shorter run needs "
        "more",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="(%(default)s)")
    options = parser.parse_args(arguments)
    seconds = options.minutes * 60
    with (
        tempfile.TemporaryDirectory() as name,
        FRONTS[options.front](Path(name), seconds) as traffic,
    ):
        pid = traffic.process.process.pid
        with Sampler(pid, traffic.database) as sampler:
            warm_up = seconds * WARM_UP
            send(traffic, warm_up, WARM_UP_CLIENTS, WARM_UP_PAUSE_SECONDS, options.seed)
            send(traffic, seconds - warm_up, CLIENTS, PAUSE_SECONDS, options.seed + 1)
        code = None
        with contextlib.suppress(AssertionError):  # it still runs
            traffic.end()
            traffic.process.terminate()
            code = traffic.process.wait()
    growths = sampler.growths(warm_up, options.settling)
    print(f"{options.minutes:g} minutes, the first {options.minutes * WARM_UP:.3g} as warm-up")
    print("\n".join(table(growths)))
    for name, count in sorted(traffic.replies.items()):
        print(f"{count:8,} {name}")
    faults = [f"grows: {growth.kind.name}" for growth in growths if growth.grows]
    faults += [f"unexpected: {what} ({count:,} times)" for what, count in traffic.faults.items()]
    if code != 0:
        faults.append(f"unexpected: the process ended with {code}")
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def minutes(value: str) -> float:
    """Read the duration; less than six seconds have too few samples."""
    number = float(value)
    if not 0.1 <= number <= 10_000:
        raise argparse.ArgumentTypeError("must be a number from 0.1 to 10000")
    return number


def send(traffic: Traffic, seconds: float, clients: int, pause: float, seed: int) -> None:
    """Send requests for so long; whatever is amiss is counted in ``traffic.faults``."""
    deadline = time.monotonic() + seconds
    chances = [random.Random(f"{seed} {number}") for number in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        while (now := time.monotonic()) < deadline:
            until = min(deadline, now + ROUND_SECONDS)
            list(pool.map(partial(client, traffic, until, pause), chances))
            try:
                traffic.process.require_running()
                traffic.end_round()
            except UnexpectedError as fault:
                traffic.faults[str(fault)] += 1
            except AssertionError:
                traffic.faults["the process has ended"] += 1
                return


def client(traffic: Traffic, until: float, pause: float, chance: random.Random) -> None:
    """Do one thing after another, with a pause of about so many seconds after each."""
    names, weights = list(traffic.actions), [each.weight for each in traffic.actions.values()]
    while time.monotonic() < until:
        (name,) = chance.choices(names, weights)
        try:
            outcome = traffic.actions[name].act(chance)
            traffic.replies[f"{name}: {outcome}"] += 1
        except UnexpectedError as fault:
            traffic.faults[f"{name}: {fault}"] += 1
        except Exception as exc:
            traffic.faults[f"{name}: {type(exc).__name__}"] += 1
        time.sleep(chance.expovariate(1 / pause))


def table(growths: Sequence[Growth]) -> list[str]:
    """Return the slopes as lines."""
    lines = [
        f"{'':20} {'first':>8} {'last':>8} {'an hour':>9} {'± error':>9} {'allowed':>9}",
    ]
    for each in growths:
        figures = (each.slope, each.error, each.allowed)
        shown = " ".join(f"{figure:9.2f}" for figure in figures)
        lines.append(f"{each.kind.name:20} {each.first:8.1f} {each.last:8.1f} {shown}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
