"""Run the Runpod worker, or score test_input.json: ``python app.py``; see ``--help``."""

from hatespeech.door import enter


def main() -> int:
    """Run it; return the exit code."""
    from hatespeech.worker.command import main

    return main()


if __name__ == "__main__":
    enter(main, "app.py", "worker")
