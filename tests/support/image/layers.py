"""Looks into an image's layers for what must not be there."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

# Python's pickles begin with their protocol and end with a full stop.
PICKLE_HEADS: Final = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
ZIP_HEAD: Final = b"PK\x03\x04"

# Installed packages bring pickles of their own, for their tests.
PACKAGES: Final = re.compile(r"/(site|dist)-packages/")

TOOLS: Final = re.compile(
    r"(.*/)?s?bin/(cc|c\+\+|gcc|g\+\+|clang|clang\+\+|ld|as|make|cmake|ninja|nvcc|rustc|cargo|go)"
    r"(-[\d.]+)?"
)
CACHES: Final = re.compile(r"(root|home/\w+)/\.cache/.+|.*\.whl|var/cache/.+|var/lib/apt/lists/.+")
LEFT_OUT: Final = re.compile(
    r"(app/)?(\.env|\.git|\.runpod|tests|benchmarks|docs|examples|README\.md|(download|score|train)\.py"
    r"|hatespeech/(bulk|console|evaluation|fetching|library|training))(/.*)?"
)
EMBEDDED: Final = "app/hatespeech/checkpoints/mini/model.safetensors"
# What adding a user changes.
ACCOUNTS: Final = re.compile(
    r"etc/(passwd|group|shadow|gshadow|subuid|subgid)-?|etc/\.pwd\.lock|var/log/.*"
)


@dataclass(frozen=True)
class Layer:
    """One layer's files."""

    size: int  # of its files, in bytes
    packages: int  # of those, what packages take
    files: frozenset[str]  # without the leading slash; what it deletes too
    pickles: Sequence[str]


def read_layer(path: Path) -> Layer:
    """Read a layer's tar."""
    size, packages, files, pickles = 0, 0, set(), []
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isdir():
                continue
            name = PurePosixPath(member.name)
            files.add(str(name.with_name(name.name.removeprefix(".wh."))))
            size += member.size
            if PACKAGES.search(str(name)):
                packages += member.size
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None and not PACKAGES.search(str(name)):
                head = file.read(4)
                if head.startswith((ZIP_HEAD, *PICKLE_HEADS)) and is_pickle(head + file.read()):
                    pickles.append(str(name))
    return Layer(size, packages, frozenset(files), pickles)


def compressed_size(path: Path) -> int:
    """Return how many bytes a layer has as gzip, which registries hold."""
    packed, packer = 0, zlib.compressobj(6)
    with path.open("rb") as tar:
        while block := tar.read(1 << 20):
            packed += len(packer.compress(block))
    return packed + len(packer.flush())


def is_pickle(content: bytes) -> bool:
    """Tell a pickle, or torch's archive of one, by what it holds and not by its name."""
    if content.startswith(ZIP_HEAD):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(PurePosixPath(name).name == "data.pkl" for name in archive.namelist())
    return content.startswith(PICKLE_HEADS) and content.endswith(b".")


def check_layers(base: Sequence[Layer], added: Sequence[Layer], *, embedded: bool) -> None:
    """Raise :class:`AssertionError` for what an image adds to its base and must not.

    ``embedded`` says whether it must hold the embedded checkpoint.
    """
    pickles = [name for layer in (*base, *added) for name in layer.pickles]
    assert not pickles, f"pickles in the image: {pickles}"
    there = frozenset[str]().union(*(layer.files for layer in base))
    new = frozenset[str]().union(*(layer.files for layer in added))
    changed = sorted(name for name in there & new if not ACCOUNTS.fullmatch(name))
    assert not changed, f"files of the base were changed: {changed[:10]}"
    for what, pattern in (("tools", TOOLS), ("caches", CACHES), ("left out", LEFT_OUT)):
        found = sorted(name for name in new if pattern.fullmatch(name))
        assert not found, f"{what} in the image: {found[:10]}"
    assert (EMBEDDED in new) == embedded, f"{EMBEDDED}: {EMBEDDED in new}"
    torch = sorted(name for name in new if re.search(r"/(torch|torch-[^/]*)/", name))
    assert not torch, f"another torch beside the base's: {torch[:10]}"
