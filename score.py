"""Score files of tweets: ``python score.py IN OUT``; see ``--help`` and docs/bulk.md."""

from hatespeech.door import enter


def main() -> int:
    """Run it; return the exit code."""
    from hatespeech.bulk.command import main

    return main()


if __name__ == "__main__":
    enter(main, "score.py")
