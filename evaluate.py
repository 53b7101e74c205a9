"""Measure a model on labelled texts: ``python evaluate.py IN``; see ``--help``."""

from hatespeech.door import enter


def main() -> int:
    """Run it; return the exit code."""
    from hatespeech.evaluation.command import main

    return main()


if __name__ == "__main__":
    enter(main, "evaluate.py", "evaluate")
