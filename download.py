"""Fetch and convert the published checkpoint: ``python download.py``; see ``--help``."""

from hatespeech.door import enter


def main() -> int:
    """Run it; return the exit code."""
    from hatespeech.fetching.command import main

    return main()


if __name__ == "__main__":
    enter(main, "download.py")
