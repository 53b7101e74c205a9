"""How much memory it takes to read the published checkpoint's pickle, as a multiple of its size.

The script writes a module of the full size with random weights to a temporary folder (1.42 GB) and
reads it in a process of its own. The peak is the kernel's high-water mark of resident memory
(`VmHWM`: anonymous, shared and file-backed pages). It is reset after the imports, and what was
resident then is subtracted.

    python -m benchmarks.unpickle_memory [--directory DIR]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hatespeech.fetching.pickle.module import check_state_dict, read_pickled_module
from tests.support.memory import reset_peak, resident

ROOT = Path(__file__).resolve().parent.parent


def measure(path: Path) -> None:
    """Read a module in this process and print how much memory that took."""
    size = path.stat().st_size
    before = reset_peak()
    start = time.perf_counter()
    module = read_pickled_module(path)
    read = time.perf_counter() - start
    peak = resident("VmHWM") - before
    start = time.perf_counter()
    check_state_dict(module.state_dict, module.config)
    checked = time.perf_counter() - start
    peak_checked = resident("VmHWM") - before
    count = sum(tensor.numel() for tensor in module.state_dict.values())
    print(f"file {size / 1e9:.3f} GB, {len(module.state_dict)} tensors, {count:,} elements")
    print(f"read    {read:5.1f} s, peak {peak / 1e9:.3f} GB = {peak / size:.3f} x the file")
    print(
        f"checked {checked:5.1f} s, peak {peak_checked / 1e9:.3f} GB = {peak_checked / size:.3f} x"
    )


def main() -> None:
    """Make the file, and read it in a fresh process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=Path, help="where the temporary folder is made")
    parser.add_argument("--measure", type=Path, metavar="FILE", help="read this file instead")
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    with tempfile.TemporaryDirectory(dir=args.directory) as folder:
        path = Path(folder) / "model_7"
        for command in (
            ("tests.support.pickles.module", "full", str(path)),
            ("benchmarks.unpickle_memory", "--measure", str(path)),
        ):
            subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
