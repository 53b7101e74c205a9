"""Print, as pip constraints, the versions of torch and of what carries its CUDA in this Python.

pip under these constraints fails rather than replace them: the base image's torch is the one built
for the base image's CUDA.
"""

import re
import sys
from importlib.metadata import distributions

CARRIERS = re.compile(r"torch|triton|nvidia-.*|cuda-.*", re.IGNORECASE)


def main() -> int:
    """Write one ``name==version`` a line; fail if there is no torch to protect."""
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
