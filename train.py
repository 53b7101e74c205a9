"""Train a checkpoint: ``python train.py``; see ``--help``."""

from hatespeech.door import enter


def main() -> int:
    """Run it; return the exit code."""
    from hatespeech.training.command import main

    return main()


if __name__ == "__main__":
    enter(main, "train.py", "train")
