"""Names as people give them: signs of globs, links, bytes that are no UTF-8; and URLs with keys."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from hatespeech.bulk import command as score
from hatespeech.bulk.places import Place, find_inputs

pytestmark = pytest.mark.usefixtures("mini")

TEXT = "text\ngood morning\n"


@pytest.fixture
def store() -> Iterator[Any]:
    """An object store: names without folders, as fsspec keeps it in memory."""
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("name", ["d[b]", "d*", "d?", "[b]"])
def test_names_with_the_signs_of_globs_are_but_names(name: str, store: Any) -> None:
    files = {"b": "THE OTHER", "db": "ANOTHER", name: "THIS ONE"}
    for each, text in files.items():
        store.pipe_file(f"/g/in/{each}.csv", f"text\n{text}\n".encode())
        store.pipe_file(f"/g/{each}.partial/scores/keep", b"of another run")
    assert score.main(["memory://g/in", f"memory://g/{name}/"]) == 0
    for each, text in files.items():
        (row,) = store.cat_file(f"/g/{name}/{each}.csv").decode().splitlines()[1:]
        assert row.startswith(f"{text},")
        kept = store.exists(f"/g/{each}.partial/scores/keep")
        assert kept == (each != name)
    assert not store.exists(f"/g/{name}.partial")


def test_a_store_that_renames_by_itself_is_let(store: Any) -> None:
    class Renames(type(store)):  # type: ignore[misc]  # as SFTP does
        protocol = "renames"
        moved: list[str] = []  # noqa: RUF012 - one for all

        def cp_file(self, path1: str, path2: str, **_options: Any) -> None:
            raise NotImplementedError

        def mv(self, path1: str, path2: str, **_options: Any) -> None:
            self.moved.append(path2)
            self.store[path2] = self.store.pop(path1)

    fs = Renames()
    fs.pipe_file("/from", b"x")
    Place(fs, "/from").move(Place(fs, "/to"))
    assert (fs.moved, fs.cat_file("/to"), fs.exists("/from")) == (["/to"], b"x", False)


def test_a_name_that_is_no_utf_8_does_not_break_the_report() -> None:
    Path("in").mkdir()
    for name in (b"a.csv", b"caf\xe9.csv"):
        Path(os.fsdecode(b"in/" + name)).write_text(f"{TEXT}{len(name)} phones\n")
    assert score.main(["in", "out", "--report", "r.html"]) == 0
    assert "caf⟨U+DCE9⟩.csv" in Path("r.html").read_text(encoding="utf-8")
    assert len(list(Path("out").iterdir())) == 2


@pytest.mark.parametrize("source", ["in", "in/*"])
def test_files_of_another_format_are_counted_and_named(
    source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("in/.git", "in/folder", "in/folder.csv", "elsewhere"):
        Path(folder).mkdir(parents=True)
    for name in (
        "a.csv",
        "b.csv.7z",
        "c.pdf",
        "b.csv.run.json",
        ".hidden",
        "_SUCCESS",
        ".git/config",
        ".d.csv",
        "_d.csv",
    ):
        Path("in", name).write_text(TEXT)
    Path("in/link").symlink_to(Path("elsewhere").absolute())
    assert score.main([source, "out"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "skipped 3 files of other formats, the first is b.csv.7z" in lines
    assert [path.name for path in Path("out").iterdir()] == ["a.csv"]


@pytest.mark.parametrize("source", ["in", "in/**", "in/*/*.csv"])
def test_files_of_runs_that_are_not_finished_are_no_inputs(source: str) -> None:
    for name in ("sub/a.csv", ".hidden/b.csv", "_temporary/c.csv", "of_another.partial/d.csv"):
        Path("in", name).parent.mkdir(parents=True)
        Path("in", name).write_text(TEXT)
    assert [each.name for each in find_inputs(source, Place.of("out")).inputs] == ["sub/a.csv"]


def test_a_folder_that_is_there_and_empty_becomes_out() -> None:
    Path("in").mkdir()
    Path("in/a.csv").write_text(TEXT)
    Path("out").mkdir()
    assert score.main(["in", "out"]) == 0
    assert [path.name for path in Path("out").iterdir()] == ["a.csv"]


def test_a_report_in_another_file_system_is_not_inside_of_out(store: Any) -> None:
    Path("a.csv").write_text(TEXT)
    report = f"{Path('out').absolute()}/r.html"
    assert score.main(["a.csv", "out/", "--report", f"memory://{report}"]) == 0
    assert store.exists(report)


@pytest.mark.parametrize("source", ["in", "in/*.csv", "in/a.csv"])
def test_the_version_of_a_link_is_that_of_what_it_leads_to(source: str) -> None:
    Path("in").mkdir()
    target = Path("target.csv")
    target.write_text(TEXT)
    Path("in/a.csv").symlink_to(target.absolute())
    before = find_inputs(source, Place.of("out")).inputs
    os.utime(target, (time.time() + 5, time.time() + 5))
    after = find_inputs(source, Place.of("out")).inputs
    assert len(before) == len(after) == 1
    assert before[0].version != after[0].version


@pytest.mark.parametrize("source", ["a.csv", "in", "in/*.csv", "link.csv"])
def test_a_pipe_is_refused_before_anyone_waits_for_it(
    source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in").mkdir()
    os.mkfifo("a.csv")
    os.mkfifo("in/b.csv")
    Path("link.csv").symlink_to("a.csv")
    assert score.main([source, "out/"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert ".csv: is a pipe, a device or a socket; a run reads its input more than once" in line


def test_an_error_about_a_url_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    assert score.main(["nosuch://me:key@host/a.csv", "b.csv"]) == 1
    assert score.main(["http://me:key@127.0.0.1:9/a.csv?token=key", "b.csv"]) == 1
    said = capsys.readouterr().err
    assert "nosuch://host/a.csv" in said
    assert "key" not in said


def test_no_rows_are_by_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.csv").write_text("text\n")
    for end in ("0 rows", f"{Path('b.csv').absolute()} is complete; remove it to score again"):
        assert score.main(["a.csv", "b.csv"]) == 0
        said = capsys.readouterr().err
        assert said.splitlines()[-1] == end
        assert "None" not in said


@pytest.mark.parametrize("name", ["a::b.csv", "s3::b.csv", "zip::b.csv"])
def test_colons_in_a_name_join_no_urls(name: str) -> None:
    Path(name).write_text(TEXT)
    assert score.main([name, f"out-{name}"]) == 0
    assert len(Path(f"out-{name}").read_text().splitlines()) == 2
    assert score.main([f"file://{Path(name).absolute()}", f"d-{name}/"]) == 0
    assert [path.name for path in Path(f"d-{name}").iterdir()] == [name]


def test_colons_between_urls_join_them(store: Any) -> None:
    with zipfile.ZipFile("all.zip", "w") as packed:
        packed.writestr("a.csv", TEXT)
    assert score.main(["zip://a.csv::all.zip", "out.csv"]) == 0
    store.pipe_file("/all.zip", Path("all.zip").read_bytes())
    assert score.main(["zip://a.csv::memory://all.zip", "memory://b::c.csv"]) == 0
    assert Place.of("memory://b::c.csv").read() == Path("out.csv").read_bytes()


@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ("data", {"lang": "de", "day": "2024-01-01 12:00"}),
        ("data/lang=*", {"lang": "de", "day": "2024-01-01 12:00"}),
        ("data/lang=de/*/*", {"lang": "de", "day": "2024-01-01 12:00"}),
        ("data/lang=de/day=2024-01-01 12%3A00/part.csv", None),
    ],
)
def test_what_the_names_of_folders_say_belongs_to_the_rows(
    source: str, keys: dict[str, str] | None
) -> None:
    folder = Path("data/lang=de/day=2024-01-01 12%3A00")
    folder.mkdir(parents=True)
    (folder / "part.csv").write_text(TEXT)
    (found,) = find_inputs(source.replace("=*", "=*/*/*"), Place.of("out")).inputs
    assert found.keys == (keys or {"lang": "de", "day": "2024-01-01 12:00"})


def test_a_folder_for_nulls_says_null() -> None:
    folder = Path("in/lang=__HIVE_DEFAULT_PARTITION__")
    folder.mkdir(parents=True)
    (folder / "part.csv").write_text(TEXT)
    (found,) = find_inputs("in", Place.of("out")).inputs
    assert found.keys == {"lang": None}
