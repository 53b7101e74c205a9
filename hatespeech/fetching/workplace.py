"""Where a download works and how it shows: room on the disk, a folder of its own, a bar."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from hatespeech.bars import progress_bar
from hatespeech.fetching import FetchError
from hatespeech.locks import FolderHeldError, held_folder


class DownloadBar:
    """A bar over the download, made when its size is known."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None

    @property
    def is_shown(self) -> bool:
        """Whether the cursor stands behind a bar."""
        return self._bar is not None

    def __call__(self, done: int, total: int | None) -> None:
        """Show that ``done`` bytes of ``total`` are there; ``done`` may fall back."""
        if self._bar is None:
            self._bar = progress_bar("checkpoint", total, "B", done)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def require_room(folder: Path, size: int) -> None:
    """Raise :class:`FetchError` unless ``size`` bytes fit on the disk."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise FetchError(
            f"not enough disk space in {folder}: {size / 1e6:,.0f} MB are needed, "
            f"{free / 1e6:,.0f} MB are free"
        )


def make_parents(folder: Path) -> None:
    """Make the folders above ``folder``, such that any user can read what will be in them."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
        parent.chmod(0o755)


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """Hold the hidden folder for this process alone; clear it of all but an unfinished download."""
    try:
        with held_folder(folder):
            clear(folder)
            try:
                yield folder
            finally:
                clear(folder)
                (folder / "lock").unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # not empty: an unfinished download stays
                    folder.rmdir()
    except FolderHeldError:
        raise FetchError(f"another run is at work in {folder}") from None


def clear(folder: Path) -> None:
    """Remove work in progress."""
    for name in ("tokenizer", "output"):
        shutil.rmtree(folder / name, ignore_errors=True)
