"""Print a lock file's entries for some packages, with hashes.

usage: select_pins.py LOCK NAME...
       select_pins.py LOCK --without FILE      all entries but those that FILE names, one a line

An image layer that installs only these entries does not depend on the rest of the lock.
"""

import re
import sys
from pathlib import Path

# An entry is a line that begins with a name, and the indented lines after it.
ENTRY = re.compile(r"^([a-z0-9][a-z0-9._-]*)==.*\n(?:[ \t]+.*\n)*", re.MULTILINE)


def main() -> int:
    """Write the entries in the lock's order; fail if a package has none."""
    lock, *names = sys.argv[1:]
    without = names[0] == "--without"
    if without:
        lines = Path(names[1]).read_text(encoding="utf-8").splitlines()
        names = [line for line in lines if line and not line.startswith("#")]
    entries = list(ENTRY.finditer(Path(lock).read_text(encoding="utf-8")))
    missing = set(names) - {entry[1] for entry in entries}
    if missing:
        sys.stderr.write(f"error: {lock} does not pin {', '.join(sorted(missing))}\n")
        return 1
    sys.stdout.writelines(entry[0] for entry in entries if (entry[1] in names) != without)
    return 0


if __name__ == "__main__":
    sys.exit(main())
