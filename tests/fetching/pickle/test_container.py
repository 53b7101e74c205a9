"""Archives and legacy files that are damaged or crafted around a sound pickle: refused."""

import gzip
import os
import pickle
import re
import struct
import zipfile
from io import FileIO
from pathlib import Path

import pytest

from hatespeech.fetching.pickle.container import open_torch_file, read_storages
from hatespeech.fetching.pickle.module import UnsafePickleError, read_pickled_module
from tests.support.pickles.torch_files import (
    archive,
    edit_directory,
    legacy,
    legacy_header,
    replace_once,
)
from tests.support.pickles.unpickling import CONFIG, ENTRIES, PUBLISHED, refusal


def test_compressed_archive_is_refused(tmp_path: Path) -> None:
    assert "compressed" in refusal(tmp_path, archive(ENTRIES, zipfile.ZIP_DEFLATED))


def test_entry_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    for name in ("archive/data/10", "archive/data.pkl", "archive/version"):
        doubled = [*ENTRIES.items(), (name, ENTRIES[name])]
        assert f"twice: '{name}'" in refusal(tmp_path, archive(doubled))


@pytest.mark.parametrize(
    "name",
    [
        "archive/code/__torch__.py",
        "archive/constants.pkl",
        "archive/extra/notes",
        "archive/data/x",
        "archive/data/-1",
        "archive/data/",
        "archive/data/../../../tmp/x",
        "../archive/version",
        "/etc/passwd",
        "../version",
        "./version",
        "archive\\data\\0",
        "\x1barchive/version",
        "data.pkl",
    ],
)
def test_entry_that_torch_does_not_write_is_refused(name: str, tmp_path: Path) -> None:
    reason = refusal(tmp_path, archive({**ENTRIES, name: b"3\n"}))
    assert "an entry that torch.save does not write" in reason


def test_archive_under_two_names_or_without_its_pickle_is_refused(tmp_path: Path) -> None:
    without = {name: content for name, content in ENTRIES.items() if "data.pkl" not in name}
    for wrong in ({**ENTRIES, "other/version": b"3\n"}, without):
        assert "does not hold exactly one data.pkl" in refusal(tmp_path, archive(wrong))


def test_archive_of_the_other_byte_order_is_refused(tmp_path: Path) -> None:
    reason = refusal(tmp_path, archive({**ENTRIES, "archive/byteorder": b"big"}))
    assert "not little-endian" in reason
    path = tmp_path / "model_7"
    path.write_bytes(archive({**ENTRIES, "archive/byteorder": b"little"}))
    assert read_pickled_module(path).config == CONFIG


def test_small_entry_that_is_large_is_refused(tmp_path: Path) -> None:
    wrong = {**ENTRIES, "archive/.data/serialization_id": bytes(65)}
    assert "oversized" in refusal(tmp_path, archive(wrong))


@pytest.mark.parametrize("change", [-4, -1, 1, 4])
def test_storage_of_a_wrong_size_is_refused(change: int, tmp_path: Path) -> None:
    name = "archive/data/10"
    content = (ENTRIES[name] + bytes(4))[: len(ENTRIES[name]) + change]
    assert "storage 10 does not have the size" in refusal(
        tmp_path, archive({**ENTRIES, name: content})
    )


def test_storages_other_than_those_the_pickle_names_are_refused(tmp_path: Path) -> None:
    missing = {name: content for name, content in ENTRIES.items() if name != "archive/data/10"}
    for wrong in (missing, {**ENTRIES, "archive/data/99": bytes(64)}):
        assert "storages are not those" in refusal(tmp_path, archive(wrong))


@pytest.mark.parametrize("key", ["1", "10"])
def test_flipped_bit_in_a_storage_is_refused(key: str, tmp_path: Path) -> None:
    # Storage 1 belongs to a buffer that is not part of the state dict.
    content = ENTRIES[f"archive/data/{key}"]
    whole = bytearray(PUBLISHED[0].read_bytes())
    whole[whole.index(content) + 5] ^= 1
    assert "does not match its checksum" in refusal(tmp_path, bytes(whole))


def test_flipped_bit_in_the_pickle_or_version_is_refused(tmp_path: Path) -> None:
    original = PUBLISHED[0].read_bytes()
    for content in (b"RobertaPooler", b"3\nPK\x07\x08"):
        whole = bytearray(original)
        whole[whole.index(content)] ^= 1
        assert "does not match its checksum" in refusal(tmp_path, bytes(whole))


def test_data_around_an_archive_or_a_directory_out_of_place_is_refused(tmp_path: Path) -> None:
    whole = archive(ENTRIES)
    commented = whole[:-2] + b"\x04\x00note"
    assert "cut short or followed" in refusal(tmp_path, whole + b"\0")
    assert "cut short or followed" in refusal(tmp_path, commented)
    start = struct.unpack("<I", whole[-6:-2])[0]
    oversized = whole[:-10] + struct.pack("<2IH", len(whole), start, 0)
    assert "directory is damaged" in refusal(tmp_path, oversized)
    # zipfile accepts what stands before an archive; behind a header's magic it would look right.
    assert "leave gaps" in refusal(tmp_path, b"PK\x03\x04" + whole)


def test_gap_between_entries_is_refused(tmp_path: Path) -> None:
    # The last entry leaves the directory, its bytes stay.
    listed = archive(ENTRIES)
    count = len(ENTRIES)
    start = struct.unpack("<I", listed[-6:-2])[0]
    last = listed.rindex(b"PK\x01\x02")
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count - 1, count - 1, last - start, start, 0)
    assert "leave gaps" in refusal(tmp_path, listed[:last] + end)


def test_directory_that_contradicts_the_entries_is_refused(tmp_path: Path) -> None:
    whole = archive(ENTRIES)

    def field(index: int, value: int) -> bytes:
        def change(values: list[int], extra: bytes) -> bytes:
            values[index] = value
            return extra

        return edit_directory(whole, 3, change)

    def zip64(size: int) -> bytes:
        def change(values: list[int], extra: bytes) -> bytes:
            values[10] = values[11] = 0xFFFFFFFF
            return struct.pack("<2H2Q", 1, 16, size, size)

        return edit_directory(whole, 3, change)

    size = len(list(ENTRIES.values())[3])
    assert edit_directory(whole, 3, lambda _, extra: extra) == whole
    cases = {
        "encrypted": (field(5, 1), "contradicts"),
        "deflated": (field(6, 8), "compressed"),
        "another checksum": (field(9, 1), "contradicts"),
        "shorter than packed": (field(11, size - 4), "contradicts"),
        "packed over the next entry": (field(10, size + 200), "contradicts"),
        "at the entry before": (field(18, 0), "overlap"),
        "past the end": (field(18, 1 << 31), "leave gaps"),
        "needs a newer version": (field(3, 200), "directory is damaged"),
        "of 2**63 bytes": (zip64(1 << 63), "contradicts"),
        "of 2**64 bytes": (zip64((1 << 64) - 1), "contradicts"),
    }
    for name, (content, reason) in cases.items():
        assert reason in refusal(tmp_path, content), name


def test_entry_that_both_headers_call_encrypted_is_refused(tmp_path: Path) -> None:
    whole = bytearray(archive(ENTRIES))
    whole[whole.index(b"archive/data/10") - 24] = 1

    def change(values: list[int], extra: bytes) -> bytes:
        values[5] = 1
        return extra

    number = list(ENTRIES).index("archive/data/10")
    assert "contradicts" in refusal(tmp_path, edit_directory(bytes(whole), number, change))


def test_entry_that_covers_the_next_is_refused(tmp_path: Path) -> None:
    # Both headers agree on a size that takes in the following entry: one run of bytes, read twice.
    for name in ("archive/data/0", "archive/version"):
        whole = bytearray(archive(ENTRIES))
        at = whole.index(name.encode()) - 30
        size = struct.unpack_from("<I", whole, at + 22)[0] + 500
        struct.pack_into("<2I", whole, at + 18, size, size)
        number = list(ENTRIES).index(name)

        def change(values: list[int], extra: bytes, size: int = size) -> bytes:
            values[10] = values[11] = size
            return extra

        reason = refusal(tmp_path, edit_directory(bytes(whole), number, change))
        assert "overlap" in reason or "reaches into its directory" in reason


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, b"PK\x01\x02"), (6, b"\x01\x00"), (18, b"\x01"), (22, b"\x01"), (14, b"\x01"), (30, b"b")],
)
def test_local_header_that_contradicts_the_directory_is_refused(
    offset: int, value: bytes, tmp_path: Path
) -> None:
    whole = bytearray(archive(ENTRIES))
    at = whole.index(b"archive/data/10") - 30 + offset
    whole[at : at + len(value)] = value
    assert "contradicts the directory" in refusal(tmp_path, bytes(whole))


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    for whole in (PUBLISHED[0].read_bytes(), legacy(ENTRIES)):
        for length in [*range(1, 64), *range(64, len(whole), len(whole) // 50), len(whole) - 1]:
            refusal(tmp_path, whole[:length])


def test_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model_7"
    path.write_bytes(archive(ENTRIES))
    with FileIO(path) as file:
        content = open_torch_file(file)
        os.truncate(path, content.extents["9"].start + 10)
        with pytest.raises(UnsafePickleError, match="ends within a storage"):
            read_storages(file, content, {"9"})


@pytest.mark.parametrize(
    "content",
    [
        b"<html>not found</html>",
        b"\x80",
        b"PK\x03\x04",
        b"PK\x05\x06" + bytes(18),
        bytes(4096),
        pickle.dumps({"linear1.weight": [1.0]}, protocol=2),
        pickle.dumps(1001, protocol=2),
    ],
)
def test_files_that_are_not_torchs_are_refused(content: bytes, tmp_path: Path) -> None:
    refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'<?xml version="1.0"?>\n<Error/>', "an XML document, .*it begins with '<\\?xml version"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "a web page: it begins with '<!DOCTYPE html"),
        (b"<html>no</html>", "a web page"),
        (b'{"error": "no such file"}', "JSON: it begins with "),
        (b"Not Found", "text: it begins with 'Not Found'"),
        (b"Entry \x1b[2Jnot found", "of a kind that is not known here"),
        (b"x" * 9999, f"text: it begins with '{'x' * 40}'$"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (gzip.compress(b"x", mtime=0), "compressed by gzip"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"GGUF\x03", "a GGUF file"),
        (b"PK\x05\x06" + bytes(18), "an empty zip archive"),
        (struct.pack("<Q", 60) + b'{"a":{"dtype":"F32"}}', "a safetensors file"),
        (bytes(257) + b"ustar\x00", "a tar archive"),
        (bytes(4096), "all zeros"),
        (bytes(range(200)), "of a kind that is not known here"),
    ],
)
def test_what_is_not_torchs_is_told_by_what_it_is(
    content: bytes, said: str, tmp_path: Path
) -> None:
    reason = refusal(tmp_path, content)
    assert reason.startswith("it is not a file of torch.save, but ")
    assert re.search(said, reason), reason
    assert reason.isprintable()


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    link, pipe, empty = tmp_path / "link", tmp_path / "pipe", tmp_path / "empty"
    link.symlink_to(PUBLISHED[0])
    os.mkfifo(pipe)
    empty.touch()
    for path in (link, tmp_path, pipe, Path("/dev/zero")):
        with pytest.raises(UnsafePickleError, match="not a regular file"):
            read_pickled_module(path)
    with pytest.raises(UnsafePickleError, match="empty"):
        read_pickled_module(empty)
    with pytest.raises(FileNotFoundError):
        read_pickled_module(tmp_path / "missing")


def test_legacy_header_must_be_torchs(tmp_path: Path) -> None:
    whole = legacy(ENTRIES)
    magic, version, info = legacy_header()
    other_info = pickle.dumps({"little_endian": False}, protocol=2)
    for old, new, reason in (
        (magic, pickle.dumps(5, protocol=2), "neither a zip archive nor"),
        (version, pickle.dumps(1002, protocol=2), "unknown version"),
        (info, other_info, "not little-endian"),
        (info, pickle.dumps([1], protocol=2), "not little-endian"),
    ):
        assert reason in refusal(tmp_path, replace_once(whole, old, new))


def test_legacy_storages_must_be_those_the_pickle_names(tmp_path: Path) -> None:
    whole = legacy(ENTRIES)
    count = sum(name.startswith("archive/data/") for name in ENTRIES)
    keys = sorted(map(str, range(count)))
    listed = pickle.dumps(keys, protocol=2)
    for other in (keys[1:], [*keys, "99"], [*keys, "1"], [keys[1], *keys[1:]]):
        changed = replace_once(whole, listed, pickle.dumps(other, protocol=2))
        assert "storages are not those" in refusal(tmp_path, changed)
    for value in ({"0": 1}, [0], "0"):
        changed = replace_once(whole, listed, pickle.dumps(value, protocol=2))
        assert "not a list of strings" in refusal(tmp_path, changed)


def test_legacy_storage_of_a_wrong_size_is_refused(tmp_path: Path) -> None:
    whole = legacy(ENTRIES)
    size = struct.pack("<q", 64) + ENTRIES["archive/data/10"]
    for numel in (63, 65, -1, 1 << 40):
        wrong = struct.pack("<q", numel) + ENTRIES["archive/data/10"]
        assert "storage 10 does not have the size" in refusal(
            tmp_path, replace_once(whole, size, wrong)
        )
    assert "followed by other data" in refusal(tmp_path, whole + b"\0")
    assert "ends within a storage" in refusal(tmp_path, whole[:-1])
