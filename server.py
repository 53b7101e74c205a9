"""Serve over HTTP: ``python server.py``, or ``uvicorn server:app`` behind a proxy of your own."""

from __future__ import annotations

from hatespeech.door import enter


def main() -> int:
    """Serve; return the exit code."""
    from hatespeech.serving.command import main

    return main()


def __getattr__(name: str) -> object:
    """Build ``app`` on demand: ``uvicorn server:app`` needs it, ``python server.py`` does not."""
    if name == "app":
        from hatespeech.serving.command import load_app

        return load_app()
    raise AttributeError(name)


if __name__ == "__main__":
    enter(main, "server.py", "server")
