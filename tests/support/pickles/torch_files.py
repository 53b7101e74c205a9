"""Takes apart and puts together the files of `torch.save`, to make wrong ones."""

import io
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

Entries = dict[str, bytes]

PUTS = ("BINPUT", "LONG_BINPUT")
PLAIN = ("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE")


def read_archive(path: Path) -> Entries:
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def archive(
    entries: Entries | Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED
) -> bytes:
    """Build an archive with right checksums around whatever the entries hold."""
    pairs = entries.items() if isinstance(entries, dict) else entries
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as target:
        warnings.simplefilter("ignore", UserWarning)  # An entry may be there twice on purpose.
        for name, content in pairs:
            target.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def pickle_of(entries: Entries) -> bytes:
    return entries["archive/data.pkl"]


def with_pickle(entries: Entries, data: bytes) -> Entries:
    return {**entries, "archive/data.pkl": data}


def splice(data: bytes, attribute: str, payload: bytes) -> bytes:
    """Put opcodes that push one value in the place of the first plain value of `attribute`."""
    ops = list(pickletools.genops(data))
    for index, (op, arg, _) in enumerate(ops):
        if op.name == "BINUNICODE" and arg == attribute:
            value = index + 1 + (ops[index + 1][0].name in PUTS)
            assert ops[value][0].name in PLAIN
            start, end = ops[value][2], ops[value + 1][2]
            return data[:start] + payload + data[end:]
    raise AssertionError(f"no attribute {attribute}")


def replace_once(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new, 1)


@cache
def storages(data: bytes) -> list[tuple[str, str, int]]:
    """List the storages a module's pickle refers to, as (key, type, number of elements)."""
    found: dict[str, tuple[str, str, int]] = {}
    memo: dict[int, object] = {}
    recent: list[object] = []
    for op, arg, _ in pickletools.genops(data):
        if op.name in PUTS:
            assert isinstance(arg, int)
            memo[arg] = recent[-1]
        elif op.name in ("BINGET", "LONG_BINGET"):
            assert isinstance(arg, int)
            recent.append(memo[arg])
        elif op.name == "BINPERSID":
            # … type, key, location, number of elements, the tuple of them
            type_, key, _, numel = recent[-5:-1]
            assert isinstance(key, str)
            assert isinstance(numel, int)
            found[key] = (key, str(type_), numel)
        elif op.name != "MARK":
            recent.append(arg)
    return list(found.values())


@cache
def legacy_pickle(data: bytes) -> bytes:
    """Give each persistent id the sixth member that it has in the legacy format: None."""
    parts, copied = [], 0
    ops = list(pickletools.genops(data))
    for index, (op, _, _) in enumerate(ops):
        if op.name == "BINPERSID":
            tuple_at = ops[index - 2][2]
            assert ops[index - 2][0].name == "TUPLE"
            assert tuple_at is not None
            parts += [data[copied:tuple_at], b"N"]
            copied = tuple_at
    return b"".join(parts) + data[copied:]


def legacy_header() -> list[bytes]:
    """Return the three pickles that open a legacy file."""
    info = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    values: list[object] = [0x1950A86A20F9469CFC6C, 1001, info]
    return [pickle.dumps(value, protocol=2) for value in values]


def edit_directory(data: bytes, number: int, change: Callable[[list[int], bytes], bytes]) -> bytes:
    """Rewrite one record of an archive's central directory, and the end record to match.

    `change` gets the record's 19 fields, to alter in place, and its extra field, to return.
    """
    record, end = struct.Struct("<I4B4H3I5H2I"), struct.Struct("<4s4H2IH")
    fixed = end.unpack(data[-end.size :])
    start = position = fixed[-2]
    parts = []
    for index in range(fixed[-4]):
        values = list(record.unpack_from(data, position))
        position += record.size
        name_length, extra_length = values[12], values[13]
        name = data[position : position + name_length]
        extra = data[position + name_length : position + name_length + extra_length]
        position += name_length + extra_length
        if index == number:
            extra = change(values, extra)
            values[13] = len(extra)
        parts += [record.pack(*values), name, extra]
    directory = b"".join(parts)
    return data[:start] + directory + end.pack(*fixed[:-3], len(directory), start, 0)


def legacy(entries: Entries, data: bytes | None = None) -> bytes:
    """Write an archive's module in the legacy format, as torch 1.11 does."""
    sizes = sorted(storages(pickle_of(entries)))
    pickles = [
        *legacy_header(),
        legacy_pickle(pickle_of(entries)) if data is None else data,
        pickle.dumps([key for key, _, _ in sizes], protocol=2),
    ]
    blocks = (struct.pack("<q", numel) + entries[f"archive/data/{key}"] for key, _, numel in sizes)
    return b"".join([*pickles, *blocks])
