"""Where a download works: a hidden folder of its own, free disk space, and a progress bar."""

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
    """The download's progress bar, which appears when the size is known."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None

    @property
    def is_shown(self) -> bool:
        """Whether the cursor is behind a bar."""
        return self._bar is not None

    def __call__(self, done: int, total: int | None) -> None:
        """Show that ``done`` of ``total`` bytes have arrived; ``done`` may become smaller."""
        if self._bar is None:
            self._bar = progress_bar("checkpoint", total, "B", done)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is and move to the next line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def require_room(folder: Path, size: int) -> None:
    """Raise :class:`FetchError` unless the folder's disk has ``size`` free bytes."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise FetchError(
            f"not enough disk space in {folder}: {size / 1e6:,.0f} MB are needed, "
            f"{free / 1e6:,.0f} MB are free"
        )


def make_parents(folder: Path) -> None:
    """Make the folders above ``folder``, readable for all users whatever the umask."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
        parent.chmod(0o755)


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """Hold the hidden folder for this process; remove all but an unfinished download.

    Raises :class:`FetchError` if another process holds it.
    """
    try:
        with held_folder(folder):
            clear(folder)
            try:
                yield folder
            finally:
                clear(folder)
                (folder / "lock").unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # not empty if a download is unfinished
                    folder.rmdir()
    except FolderHeldError:
        raise FetchError(f"another run is using {folder}") from None


def clear(folder: Path) -> None:
    """Remove unfinished work, but not an unfinished download."""
    for name in ("tokenizer", "output"):
        shutil.rmtree(folder / name, ignore_errors=True)
