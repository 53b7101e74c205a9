"""What a file is that is not a file of ``torch.save``, told by its first bytes."""

from __future__ import annotations

from typing import Final

from hatespeech.fetching.pickle.values import quoted

HEAD_BYTES: Final = 512
SHOWN_CHARS: Final = 40

# How files of a kind begin. A server's error page is often stored under the name of a file.
_BEGINNINGS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x1f\x8b", "compressed by gzip"),
    (b"BZh", "compressed by bzip2"),
    (b"\xfd7zXZ", "compressed by xz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"\x89HDF", "an HDF5 file, such as Keras writes"),
    (b"GGUF", "a GGUF file"),
    (b"PAR1", "a Parquet file"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x7fELF", "a program"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself (git lfs pull)"),
)
_TEXTS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"<?xml", "an XML document, such as a server's error"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)


def kind_of(head: bytes) -> str:
    """Return in words what a file is that begins like this."""
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 32:
        return "a safetensors file"
    if not any(head):
        return "all zeros at its beginning"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, kind in _TEXTS:
        if text.lower().startswith(beginning):
            return f"{kind}: it begins with {quoted(_first(text))}"
    shown = _first(text)
    if shown and shown.isprintable():
        return f"text: it begins with {quoted(shown)}"
    return "of a kind that is not known here"


def _first(text: bytes) -> str:
    line = text.splitlines()[0] if text else b""
    return line.decode("utf-8", "replace")[:SHOWN_CHARS]
