"""Print the versions of this Python's torch and of its CUDA packages, as pip constraints.

With these constraints pip fails instead of replacing one of them: only the base image's torch is
built for the base image's CUDA.
"""

import re
import sys
from importlib.metadata import distributions

CARRIERS = re.compile(r"torch|triton|nvidia-.*|cuda-.*", re.IGNORECASE)


def main() -> int:
    """Write one ``name==version`` per line; fail if torch is not installed."""
    found = {
        name.lower(): distribution.version
        for distribution in distributions()
        if CARRIERS.fullmatch(name := distribution.metadata["Name"])
    }
    if "torch" not in found:
        sys.stderr.write("error: the base image has no torch\n")
        return 1
    sys.stdout.writelines(f"{name}=={found[name]}\n" for name in sorted(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
