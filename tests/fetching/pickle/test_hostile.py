"""Pickles that would run code, take the memory or never end: refused, and nothing happens."""

import builtins
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
import torch

from hatespeech.fetching.pickle.module import read_pickled_module
from tests.support.pickles import malicious as evil
from tests.support.pickles.torch_files import (
    archive,
    legacy,
    legacy_header,
    legacy_pickle,
    pickle_of,
    replace_once,
    splice,
    with_pickle,
)
from tests.support.pickles.unpickling import CONFIG, ENTRIES, PUBLISHED, refusal, run, whole_pickle


@pytest.fixture(autouse=True)
def _process_state_is_left_alone() -> Iterator[None]:
    def state() -> tuple[object, ...]:
        return (
            dict(vars(builtins)),
            dict(vars(torch.nn.Linear)),
            dict(vars(torch.nn.Module)),
            {name for name in sys.modules if name.startswith(("transformers", "numpy.f2py"))},
        )

    before = state()
    yield
    assert state() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", evil.LIVE)
def test_live_pickles_fire_in_an_ordinary_unpickler(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "fired"
    try:  # noqa: SIM105 - suppress() would hide that only some of them fail, and after firing
        pickle.loads(evil.PROTO + evil.LIVE[name](marker) + b".")
    except (TypeError, ValueError, EOFError):
        pass
    assert marker.exists()


def deep(payload: bytes) -> bytes:
    return archive(with_pickle(ENTRIES, splice(pickle_of(ENTRIES), "prefix", payload)))


def deep_legacy(payload: bytes) -> bytes:
    return legacy(ENTRIES, splice(legacy_pickle(pickle_of(ENTRIES)), "prefix", payload))


def in_header(number: int) -> Callable[[bytes], bytes]:
    def build(payload: bytes) -> bytes:
        pickles = [*legacy_header(), legacy_pickle(pickle_of(ENTRIES)), evil.PROTO + b"]."]
        pickles[number] = evil.PROTO + payload + b"."
        return b"".join(pickles)

    return build


PLACES: dict[str, Callable[[bytes], bytes]] = {
    "deep in an archive": deep,
    "at the top of an archive": whole_pickle,
    "plain pickle": lambda payload: evil.PROTO + payload + b".",
    "deep in a legacy file": deep_legacy,
    "legacy magic number": in_header(0),
    "legacy version": in_header(1),
    "legacy system information": in_header(2),
    "legacy object": in_header(3),
    "legacy storage keys": in_header(4),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", evil.LIVE)
def test_live_pickles_are_refused_without_firing(name: str, place: str, tmp_path: Path) -> None:
    marker = tmp_path / "fired"
    reason = refusal(tmp_path, PLACES[place](evil.LIVE[name](marker)))
    assert "not allowed" in reason or "does not start with its protocol" in reason
    assert not marker.exists()


@pytest.mark.parametrize("place", ["deep in an archive", "deep in a legacy file"])
def test_harmless_value_in_the_same_place_is_read(place: str, tmp_path: Path) -> None:
    path = tmp_path / "model_7"
    path.write_bytes(PLACES[place](evil.tuple_(evil.number(1), evil.dict_(), b"]")))
    assert read_pickled_module(path).config == CONFIG


@pytest.mark.parametrize("name", evil.NAMES, ids=".".join)
def test_names_off_the_list_are_refused(name: tuple[str, str], tmp_path: Path) -> None:
    assert "names a global that is not allowed" in refusal(tmp_path, deep(evil.name(*name)))


def test_allowed_names_are_refused_in_a_legacy_header(tmp_path: Path) -> None:
    for number in (0, 1, 2, 4):
        reason = refusal(tmp_path, in_header(number)(evil.hooks()))
        assert "names a global that is not allowed" in reason


def test_refused_name_is_shown_escaped_and_cut_short(tmp_path: Path) -> None:
    reason = refusal(tmp_path, deep(evil.name("x\x1b[31m", "y" * 5000)))
    assert "'x\\x1b[31m yyy" in reason
    assert len(reason) < 200


def test_pickles_of_other_protocols_are_refused(tmp_path: Path) -> None:
    body = pickle_of(ENTRIES)[2:]
    for protocol in (0, 1, 3, 4, 5):
        data = bytes([0x80, protocol]) + body
        assert "protocol 2" in refusal(tmp_path, archive(with_pickle(ENTRIES, data)))
    assert "does not start" in refusal(tmp_path, archive(with_pickle(ENTRIES, body)))


MISUSED = [
    pytest.param(payload, reason, id=name)
    for reason, cases in evil.MISUSED.items()
    for name, payload in cases.items()
]


@pytest.mark.parametrize(("payload", "reason"), MISUSED)
def test_allowed_names_and_opcodes_are_refused_out_of_place(
    payload: bytes, reason: str, tmp_path: Path
) -> None:
    assert reason in refusal(tmp_path, deep(payload))


def test_legacy_class_ids_are_refused_unless_they_name_a_module(tmp_path: Path) -> None:
    module = evil.name(*evil.LINEAR)
    text, none = evil.text("class Linear: ..."), evil.NONE
    good = [(module, none, none), (module, text, text)]
    bad = [
        (evil.name("torch", "FloatStorage"), none, none),
        (evil.text("Linear"), none, none),
        (module, evil.EMPTY_DICT, none),
        (module, none, evil.number(1)),
        (module, none),
    ]
    for parts in good:
        payload = evil.tuple_(evil.text("module"), *parts) + b"Q"
        path = tmp_path / "model_7"
        path.write_bytes(deep_legacy(payload))
        assert read_pickled_module(path).config == CONFIG
    for wrong in bad:
        payload = evil.tuple_(evil.text("module"), *wrong) + b"Q"
        assert "persistent id of a wrong shape" in refusal(tmp_path, deep_legacy(payload))


def test_pickle_followed_by_another_is_refused(tmp_path: Path) -> None:
    data = pickle_of(ENTRIES)
    assert "followed by other data" in refusal(tmp_path, archive(with_pickle(ENTRIES, data * 2)))


def test_pickle_of_more_than_one_value_is_refused(tmp_path: Path) -> None:
    for payload in (evil.NONE * 2, b"(" + evil.NONE, b""):
        reason = refusal(tmp_path, whole_pickle(payload))
        assert "exactly one value" in reason


BOMBS = [
    pytest.param(payload, reason, id=name)
    for reason, cases in evil.BOMBS.items()
    for name, payload in cases.items()
]


@pytest.mark.parametrize(("payload", "reason"), BOMBS)
def test_bombs_are_refused(payload: bytes, reason: str, tmp_path: Path) -> None:
    assert reason in refusal(tmp_path, whole_pickle(payload))


def huge_files(folder: Path) -> dict[Path, str]:
    """Write files that claim, or unpack to, far more than they hold; with why each is refused."""
    first = "archive/data/10"
    claims = splice_numel(pickle_of(ENTRIES), "10", 16 << 20)
    deflated = BytesIO()
    with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in with_pickle(ENTRIES, claims).items():
            method = zipfile.ZIP_DEFLATED if name == first else zipfile.ZIP_STORED
            target.writestr(name, bytes(64 << 20) if name == first else content, method)
    contents = [
        (deflated.getvalue(), "compressed entry"),
        (archive(with_pickle(ENTRIES, claims)), "storage 10 does not have the size"),
        (legacy(ENTRIES, legacy_pickle(claims)), "storage 10 does not have the size"),
    ]
    files: dict[Path, str] = {}
    for content, reason in contents:
        path = folder / f"{len(files)}.pt"
        path.write_bytes(content)
        files[path] = reason
    sparse = folder / "sparse.pt"
    with sparse.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(1 << 30)
        file.seek(0, os.SEEK_END)
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, 1 << 29, 1 << 28, 0))
    files[sparse] = "directory is oversized"
    for reason, cases in evil.BOMBS.items():
        for name, payload in cases.items():
            path = folder / f"{name}.pt"
            path.write_bytes(whole_pickle(payload))
            files[path] = reason
    return files


def splice_numel(data: bytes, key: str, numel: int) -> bytes:
    """Change how many elements the first mention of a storage gives it: 64 in the file."""
    start = data.index(evil.text(key))
    return data[:start] + replace_once(data[start:], b"K@t", evil.number(numel) + b"t")


@pytest.mark.slow
def test_refusals_take_little_memory(tmp_path: Path) -> None:
    files = huge_files(tmp_path)
    reports = run("tests.support.pickles.read", *files)
    for reason, report in zip(files.values(), reports, strict=True):
        assert reason in report["reason"]
        # Two hundred thousand opcodes make at most so many dicts, with an entry each in a memo.
        assert report["peak"] < 64 << 20, report


@pytest.mark.slow
def test_reading_takes_little_more_memory_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model_7"
    run("tests.support.pickles.module", "medium", path)
    (report,) = run("tests.support.pickles.read", path)
    assert report["reason"] is None
    assert report["peak"] < 1.3 * path.stat().st_size


@pytest.mark.slow
def test_mutated_files_are_refused_or_judged_by_the_strict_check() -> None:
    (report,) = run("tests.support.pickles.fuzz", 2000, 11, *PUBLISHED)
    outcomes = report["outcomes"]
    judged = {"refused", "failed the strict check", "passed the strict check"}
    assert set(outcomes) == judged, report
    assert sum(outcomes.values()) == 2000
    assert report["imported"] == []
    assert report["peak"] < 64 << 20
