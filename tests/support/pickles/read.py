"""Reads pickled modules, each in a fresh child of one process, and prints what came of it.

    python -m tests.support.pickles.read FILE...

One JSON object a line: the reason for the refusal (null if there was none), the peak of resident
memory in bytes above what it was before, and the modules that were imported.
"""

import json
import os
import sys

from hatespeech.fetching.pickle.module import UnsafePickleError, read_pickled_module
from tests.support.memory import reset_peak, resident


def report(path: str) -> dict[str, object]:
    before, modules = reset_peak(), set(sys.modules)
    reason = None
    try:
        read_pickled_module(path)
    except UnsafePickleError as exc:
        reason = str(exc)
    peak = resident("VmHWM") - before
    return {"reason": reason, "peak": peak, "imported": sorted(set(sys.modules) - modules)}


def main() -> None:
    for path in sys.argv[1:]:
        child = os.fork()
        if child == 0:
            print(json.dumps(report(path)), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            print(json.dumps({"reason": f"ended with status {status}"}), flush=True)


if __name__ == "__main__":
    main()
