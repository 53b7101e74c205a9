"""Run every benchmark, one after another, and write the table of benchmarks/README.md.

This takes about half an hour on two cores and wants a machine with nothing else to do. The raw
figures go to benchmarks/results.json, the plot of the load sweep to benchmarks/load_sweep.svg. A
benchmark that fails is named and keeps its old line.

    scripts/bench [--only NAME …] [--quick]
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hatespeech.cli import make_parser

HERE: Final = Path(__file__).resolve().parent
RESULTS: Final = HERE / "results.json"
README: Final = HERE / "README.md"
BEGIN, END = "<!-- table -->", "<!-- /table -->"

# In the order of the table, each with what it is given beside its defaults.
BENCHMARKS: Final[Mapping[str, Sequence[str]]] = {
    "cold_start": (),
    "load": (),
    "offline_throughput": (),
    "bulk_local": (),
    "useful_work": (),
    "http_throughput": ("--rounds", "3"),
    "grpc_and_http": (),
    "handler_concurrency": (),
    "idle_latency": (),
    "lone_tweets": (),
    "compiled_pass": (),
    "busy_neighbour": (),
    "int8_runtimes": ("--shapes", "base"),
    "int8_agreement": (),
    "beside_bulk": (),
    "scaling": (),
    "sdk_loop": (),
    "stops": (),
    "original_way": (),
    "normalizer": (),
    "reading": (),
    "load_sweep": ("--rounds", "2", "--plot", str(HERE / "load_sweep.svg")),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, collect, write; return 1 if a benchmark failed."""
    parser = make_parser("scripts/bench", __doc__)
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), help="run only these")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="run two rounds of each; print the result and keep nothing",
    )
    options = parser.parse_args(arguments)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    failed = []
    names = options.only or list(BENCHMARKS)
    for index, name in enumerate(names, 1):
        print(f"[{index}/{len(names)}] {name}", file=sys.stderr, flush=True)
        started = time.monotonic()
        found = run(name, options.quick)
        if found is None:
            failed.append(name)
            continue
        results[name] = {**found, "minutes": round((time.monotonic() - started) / 60, 1)}
        if options.quick:
            print(table({name: results[name]}))
        else:
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    if options.quick:
        return 1 if failed else 0
    ordered = {name: results[name] for name in BENCHMARKS if name in results}
    text = README.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    README.write_text(f"{head}{BEGIN}\n\n{table(ordered)}\n{END}{tail}", encoding="utf-8")
    return 1 if failed else 0


def run(name: str, quick: bool) -> dict[str, Any] | None:
    """Run one benchmark in a process of its own; return its result, ``None`` if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(path)]
        command += [*BENCHMARKS[name], *(("--rounds", "2") if quick else ())]
        done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.DEVNULL)
        if done.returncode or not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    return found


def table(results: Mapping[str, Any]) -> str:
    """Return the Markdown table and the machine below it."""
    lines = [
        "| figure | against | ours | theirs | ratio | aim | |",
        "| --- | --- | ---: | ---: | ---: | --- | --- |",
    ]
    machines: dict[str, list[str]] = {}
    for name, found in results.items():
        where = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
        machines.setdefault(f"{found['date']}: {where}", []).append(name)
        for figure in found["figures"]:
            verdict = {None: "", True: "met", False: "**not met**"}[figure["met"]]
            raw = figure["raw"]
            cells = (
                figure["name"],
                figure["against"],
                *(shown(raw.get(side)) for side in ("ours", "theirs")),
                shown(figure["ratio"]),
                figure["target"],
                verdict,
            )
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"{', '.join(names)}: {where}." for where, names in machines.items()), ""]
    return "\n".join(lines)


def shown(value: float | None) -> str:
    """Return a number with three significant digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
