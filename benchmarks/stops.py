"""Jobs that get their answer although their worker is being stopped: our loop, the SDK's own.

Real worker processes take jobs from a stand-in of Runpod's job API on this machine and are stopped
by SIGTERM. Jobs are handed over at random moments around the signal, one by one and in batches;
some take longer than the worker has time for; posts of replies fail, or the platform's answers to
them get lost; some workers get a second signal. The handler only waits. Both loops get the same
plans. A worker that still runs 10 s after its polls have ended is killed, as Docker would.

    python -m benchmarks.stops
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import report

if TYPE_CHECKING:
    from tests.support.stops import Stop

AT_ONCE = 16
KILL_SECONDS = 10.0
TARGET = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=2)
    parser.add_argument("--stops", type=report.positive, default=100, help="a round (%(default)s)")
    options = parser.parse_args(arguments)

    # Not for --help: they import the SDK, which starts a process.
    from tests.support.processes.forked_worker import context
    from tests.support.stops import stop

    done: dict[bool, list[Stop]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as name:

        def share(ours: bool) -> float:
            first = len(done[ours])
            numbers = range(first, first + options.stops)
            run = partial(
                stop, context=context(), folder=Path(name), ours=ours, kill_seconds=KILL_SECONDS
            )
            with ThreadPoolExecutor(AT_ONCE) as pool:
                found = list(pool.map(run, numbers))
            done[ours] += found
            return 100 * (1 - sum(each.lost for each in found) / sum(each.handed for each in found))

        shares = report.in_turn(partial(share, True), partial(share, False), options.rounds)
    figure = report.at_least(
        "jobs answered around a stop, % of those handed over",
        "the SDK's own loop",
        shares,
        TARGET,
        ours_stops=describe(done[True]),
        theirs_stops=describe(done[False]),
    )
    report.publish([figure], options.json)


def describe(stops: Sequence[Stop]) -> str:
    """Say in one line what became of these stops."""
    return (
        f"{len(stops)} stops, {sum(each.lost > 0 for each in stops)} of them lost jobs: "
        f"{sum(each.lost for each in stops)} of {sum(each.handed for each in stops)}; "
        f"{sum(each.given_up for each in stops)} answered unhealthy; "
        f"{sum(len(each.problems) for each in stops)} answers out of order; "
        f"median {median(each.seconds for each in stops):.1f} s from the last poll to the end"
    )


if __name__ == "__main__":
    main()
