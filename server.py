"""Serve over HTTP: ``python server.py``, or ``uvicorn server:app`` behind a proxy of your own."""

import sys
from typing import Any

from hatespeech.serving.command import load_app, main


def __getattr__(name: str) -> Any:
    """Build ``app`` on demand: ``uvicorn server:app`` needs it, ``python server.py`` does not."""
    if name == "app":
        return load_app()
    raise AttributeError(name)


if __name__ == "__main__":
    sys.exit(main())
