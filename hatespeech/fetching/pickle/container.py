"""The two containers of ``torch.save``: a zip archive, and the legacy series of pickles.

Every size is compared with the file's size before memory is reserved, and each byte is read once.
The file is read, not mapped: a mapping would crash the process if the file shrank.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from io import BytesIO, FileIO
from os import SEEK_SET, fstat
from typing import Final

import torch

from hatespeech.fetching.pickle.kinds import HEAD_BYTES, kind_of
from hatespeech.fetching.pickle.reader import MAX_PICKLE_BYTES, Pickle, read_pickle
from hatespeech.fetching.pickle.values import Storage, UnsafePickleError, quoted, refuse

MAX_DIRECTORY_BYTES: Final = 1 << 20
MAX_SMALL_ENTRY: Final = 64
CHUNK: Final = 1 << 20

# The two pickled numbers at the start of a legacy file (torch.serialization).
_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION: Final = 1001

_LOCAL_HEADER: Final = struct.Struct("<4s5H3I2H")
_END_OF_DIRECTORY: Final = 22  # bytes, without a comment, which torch never writes
_FLAG_DESCRIPTOR: Final = 0x0008
_FLAG_UTF8: Final = 0x0800
_IN_ZIP64: Final = 0xFFFFFFFF
_MAX_DESCRIPTOR: Final = 24

_ENTRY: Final = re.compile(
    r"(?P<root>[^/\\\x00-\x1f]{1,255})/"
    r"(?:(?P<pickle>data\.pkl)|data/(?P<key>[0-9]{1,20})|byteorder|version"
    r"|\.format_version|\.storage_alignment|\.data/serialization_id)"
)


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of bytes in the file, with their CRC-32 if the container records it."""

    start: int
    length: int
    crc32: int | None


@dataclass(frozen=True, slots=True)
class TorchFile:
    """What a file holds: the pickled value, its storages, and where their bytes are."""

    value: object
    storages: dict[str, Storage]
    extents: dict[str, Extent]


class _BoundedReader:
    """A seekable file for ``zipfile`` that refuses a read larger than any directory."""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = fstat(self._file.fileno()).st_size - self.tell()
        if size > MAX_DIRECTORY_BYTES:
            refuse("the archive's directory is oversized")
        return _read(self._file, size)


def open_torch_file(file: FileIO) -> TorchFile:
    """Read the structure of an unbuffered file in either format, without its storages.

    Raises :class:`UnsafePickleError`.
    """
    status = fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        refuse("the path is not a regular file")
    if status.st_size == 0:
        refuse("the file is empty")
    head = _read(file, HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        return _open_zip(file)
    if not head.startswith(b"\x80"):  # how a pickle begins
        refuse(f"it is not a file of torch.save, but {kind_of(head)}")
    return _open_legacy(file, status.st_size)


def read_storages(
    file: FileIO, content: TorchFile, wanted: Collection[str]
) -> dict[str, torch.Tensor]:
    """Read all storages, in file order; return those in ``wanted`` as flat tensors, by key.

    The others are read too, to verify every checksum of the archive. Raises
    :class:`UnsafePickleError`.
    """
    tensors: dict[str, torch.Tensor] = {}
    for key, extent in sorted(content.extents.items(), key=lambda item: item[1].start):
        if key in wanted:
            buffer = bytearray(extent.length)
            _fill(file, extent, buffer)
            tensors[key] = torch.frombuffer(buffer, dtype=content.storages[key].dtype)
        else:
            _fill(file, extent, None)
    return tensors


def _read(file: FileIO, size: int) -> bytes:
    parts = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _fill(file: FileIO, extent: Extent, buffer: bytearray | None) -> None:
    """Read an extent, into ``buffer`` if there is one, and verify its checksum."""
    file.seek(extent.start)
    target = memoryview(bytearray(CHUNK) if buffer is None else buffer)
    done = crc = 0
    while done < extent.length:
        start = done if buffer is not None else 0
        size = file.readinto(target[start : start + min(CHUNK, extent.length - done)])
        if not size:
            refuse("the file ends within a storage")
        crc = zlib.crc32(target[start : start + size], crc)
        done += size
    if extent.crc32 not in (None, crc):
        refuse("an entry of the archive does not match its checksum")


def _read_entry(file: FileIO, extent: Extent) -> bytes:
    content = bytearray(extent.length)
    _fill(file, extent, content)
    return bytes(content)


def _open_zip(file: FileIO) -> TorchFile:
    entries = _entries(file)
    keys: dict[str, Extent] = {}
    pickle: Pickle | None = None
    roots = set()
    for name, extent in entries.items():
        match = _ENTRY.fullmatch(name)
        if match is None or match["root"] in (".", ".."):
            refuse(f"the archive holds an entry that torch.save does not write: {quoted(name)}")
        roots.add(match["root"])
        if match["key"]:
            keys[match["key"]] = extent
        elif match["pickle"]:
            if extent.length > MAX_PICKLE_BYTES:
                refuse(f"the pickle is larger than {MAX_PICKLE_BYTES} bytes")
            stream = BytesIO(_read_entry(file, extent))
            pickle = read_pickle(stream, "zip")
            if stream.read(1):
                refuse("the pickle is followed by other data")
        elif extent.length > MAX_SMALL_ENTRY:
            refuse(f"an entry of the archive is oversized: {quoted(name)}")
        else:
            text = _read_entry(file, extent)
            if name.endswith("/byteorder") and text != b"little":
                refuse("the archive's byte order is not little-endian")
    if pickle is None or len(roots) != 1:
        refuse("the archive does not hold exactly one data.pkl, or its entries have several roots")
    if keys.keys() != pickle.storages.keys():
        refuse("the archive's storages are not those that the pickle refers to")
    for key, storage in pickle.storages.items():
        if keys[key].length != storage.nbytes:
            refuse(f"storage {key} does not have the size of its elements")
    return TorchFile(pickle.value, pickle.storages, keys)


def _entries(file: FileIO) -> dict[str, Extent]:
    """Return the archive's entries in file order, all uncompressed and without gaps between."""
    file.seek(max(0, fstat(file.fileno()).st_size - _END_OF_DIRECTORY))
    if _read(file, 4) != b"PK\x05\x06":
        refuse("the archive is cut short or followed by other data")
    try:
        # zipfile reads only the directory; this module reads the entries.
        with zipfile.ZipFile(_BoundedReader(file)) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            directory = archive.start_dir
    except UnsafePickleError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, OverflowError, ValueError, struct.error):
        refuse("the archive's directory is damaged")
    entries: dict[str, Extent] = {}
    end = 0
    for info in infos:
        # At most a descriptor may be between the bytes of one entry and the header of the next.
        if not 0 <= info.header_offset - end <= (_MAX_DESCRIPTOR if entries else 0):
            refuse("the archive's entries overlap or leave gaps")
        if info.filename in entries:
            refuse(f"the archive holds an entry twice: {quoted(info.filename)}")
        extent = entries[info.filename] = _extent(file, info)
        end = extent.start + extent.length
        if end > directory:
            refuse("an entry of the archive reaches into its directory")
    if directory - end > _MAX_DESCRIPTOR:
        refuse("the archive's entries leave gaps")
    return entries


def _extent(file: FileIO, info: zipfile.ZipInfo) -> Extent:
    """Return where an entry's bytes are; its local header must agree with the directory."""
    name = info.orig_filename.encode("utf-8" if info.flag_bits & _FLAG_UTF8 else "cp437")
    file.seek(info.header_offset)
    # A header cut short by the end of the file differs from the directory's, too.
    header = _read(file, _LOCAL_HEADER.size).ljust(_LOCAL_HEADER.size, b"\0")
    (magic, _, flags, method, _, _, crc, packed, size, name_length, extra_length) = (
        _LOCAL_HEADER.unpack(header)
    )
    if method != zipfile.ZIP_STORED or info.compress_type != zipfile.ZIP_STORED:
        refuse(f"the archive holds a compressed entry: {quoted(info.filename)}")
    later = flags & _FLAG_DESCRIPTOR != 0  # zeros here: checksum and sizes follow the data
    if (
        magic != b"PK\x03\x04"
        or flags != info.flag_bits
        or flags & ~(_FLAG_DESCRIPTOR | _FLAG_UTF8)
        or info.filename != info.orig_filename
        or _read(file, name_length) != name
        or info.compress_size != info.file_size
        or not (crc == info.CRC or (later and crc == 0))
        or any(
            n not in (info.file_size, _IN_ZIP64) and not (later and n == 0) for n in (packed, size)
        )
    ):
        refuse(f"an entry's header contradicts the directory: {quoted(info.filename)}")
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    return Extent(start, info.file_size, info.CRC)


def _open_legacy(file: FileIO, file_size: int) -> TorchFile:
    """Read the five pickles, then locate the storages, each after a count of eight bytes."""
    file.seek(0)
    stream = BytesIO(_read(file, MAX_PICKLE_BYTES))
    if read_pickle(stream).value != _MAGIC:
        refuse("the file is neither a zip archive nor a legacy file of torch.save")
    if read_pickle(stream).value != _LEGACY_VERSION:
        refuse("the legacy file has an unknown version")
    match read_pickle(stream).value:
        case {"little_endian": True}:
            pass
        case _:
            refuse("the legacy file's byte order is not little-endian")
    pickle = read_pickle(stream, "legacy")
    keys = read_pickle(stream).value
    if type(keys) is not list or not all(type(key) is str for key in keys):
        refuse("the legacy file's storage keys are not a list of strings")
    if len(keys) != len(pickle.storages) or set(keys) != pickle.storages.keys():
        refuse("the legacy file's storages are not those that the pickle refers to")
    extents = {}
    position = stream.tell()
    for key in keys:
        storage = pickle.storages[key]
        file.seek(position)
        if _read(file, 8) != storage.numel.to_bytes(8, "little"):
            refuse(f"storage {key} does not have the size of its elements")
        extents[key] = Extent(position + 8, storage.nbytes, None)
        position += 8 + storage.nbytes
        if position > file_size:
            refuse("the file ends within a storage")
    if position != file_size:
        refuse("the legacy file's storages are followed by other data")
    return TorchFile(pickle.value, pickle.storages, extents)
