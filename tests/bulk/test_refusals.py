"""What can't be done is said in one line, before hours of work, and quotes no text."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hatespeech.bulk import command as score
from tests.paths import ROOT
from tests.support.processes.score import SECONDS, environment

SECRET = "nobody-may-read-this"


@pytest.fixture
def refuse(mini: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run in a folder, and return the one line of an error."""

    def run(*arguments: str) -> str:
        assert score.main([*arguments]) == 1
        lines = capsys.readouterr().err.splitlines()
        (line,) = (line for line in lines if line.startswith("error: "))
        assert line == lines[-1]
        assert SECRET not in "".join(lines)
        return line.removeprefix("error: ").replace(f"{tmp_path}/", "")

    return run


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", "", "has no header, so no column text (--text-column)"),
        ("a.csv", "text,text\n", "its header has 2 columns text (--text-column)"),
        (
            "a.csv",
            f"body,txet\n{SECRET}\n",
            "its header has no column text (--text-column); it has body, txet; is txet meant?",
        ),
        (
            "a.csv",
            f"1,{SECRET} {SECRET}\n2,{SECRET}\n",
            "its header has no column text (--text-column); the first row does not look like a "
            "header (--no-header)",
        ),
        (
            "a.csv",
            "text,spam,label\n",
            "already has spam, label; --prefix gives the new columns other names",
        ),
        ("a.csv", f"text,id\na,1\n{SECRET}\n", "row 2 has 1 fields, the header 2"),
        ("a.csv", f"text\na\n{SECRET},{SECRET}\n", "row 2 has 2 fields, the header 1"),
        (
            "a.csv",
            f'text\na\nb\n"{SECRET}" x\n',
            "row 3 can't be read: its quotes are wrong, or it is longer than 4194304 characters",
        ),
        (
            "a.csv",
            "text\na\n" + "b" * 4_194_305,
            "row 2 can't be read: its quotes are wrong, or it is longer than 4194304 characters",
        ),
        ("a.tsv", f"text\tid\na\t1\n{SECRET}\n", "row 2 has 1 fields, the header 2"),
        ("a.jsonl", f'{{"text": "a"}}\n["{SECRET}"]\n', "row 2 is not a JSON object"),
        ("a.jsonl", f'{{"text": "{SECRET}"\n', "row 1 is not a JSON object"),
        (
            "a.jsonl",
            f'{{"text": "{SECRET}", "n": NaN}}\n',
            "row 1 holds NaN or Infinity, which Python writes but JSON does not have; write null "
            "instead",
        ),
        ("a.jsonl", "[" * 100_000, "row 1 is not a JSON object (--input-format json)"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": "b", "error": 1}\n',
            "already has error; --prefix gives the new columns other names",
        ),
        (
            "a.jsonl",
            f'{{"data": {{"text": "{SECRET}"}}, "id": 1}}\n',
            "no row has the key text (--text-column); it has data.text, id; is data.text meant?",
        ),
        (
            "a.json",
            f'{{"text": "{SECRET}"}}\n',
            "is not an array of objects; a file with an object "
            "on each line is JSONL (--input-format jsonl)",
        ),
        (
            "a.json",
            f'[{{"text": "a"}}, "{SECRET}"]',
            "after row 1: holds something else than an object",
        ),
        (
            "a.csv",
            f'{{"text":"{SECRET}","id":1}}\n',
            "its header can't be read as CSV (--input-format)",
        ),
        (
            "a.csv",
            f'{{"text": "{SECRET}", "id": 1}}\n',
            "its first row looks like an object of JSONL (--input-format jsonl)",
        ),
        (
            "a.csv",
            f"sep=;\nid;text\n1;{SECRET}\n",
            "its first line, sep=, is for Excel alone: remove that line",
        ),
        ("a.parquet", SECRET, "can't be read as Parquet"),
        ("a.csv.gz", SECRET, "can't be decompressed after row 0; is it gzip?"),
    ],
)
def test_a_file_that_cannot_be_scored(
    name: str, data: str, message: str, refuse: Callable[..., str]
) -> None:
    Path(name).write_text(data)
    assert refuse(name, "out" + name[1:]) == f"{name}: {message}"
    assert [str(path) for path in Path().iterdir()] == [name]


def test_a_file_that_ends_too_soon_or_is_not_utf_8(refuse: Callable[..., str]) -> None:
    whole = pa.compress(b"text\n" + b"a tweet\n" * 100_000, codec="gzip", asbytes=True)
    Path("a.csv.gz").write_bytes(whole[: len(whole) // 2])
    assert "a.csv.gz: can't be decompressed after row " in refuse("a.csv.gz", "out.csv")
    Path("a.csv").write_bytes(b"text\nfine\ncaf\xe9\n")
    assert "a.csv: row 1, or a row soon after it, is not UTF-8" in refuse("a.csv", "b.csv")


def test_parquet_whose_texts_are_none(refuse: Callable[..., str]) -> None:
    pq.write_table(pa.table({"text": [1, 2], "body": ["a", "b"], "label": ["x", "y"]}), "a.parquet")
    assert refuse("a.parquet", "b.parquet") == (
        "a.parquet: its column text must hold strings, but is int64 (--text-column)"
    )
    said = refuse("a.parquet", "b.parquet", "--text-column", "Body")
    missing = "has no column Body (--text-column); it has text, body, label; is body meant?"
    assert said == f"a.parquet: {missing}"
    assert "already has label" in refuse("a.parquet", "b.parquet", "--text-column", "body")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.csv", "b.csv"), "none.csv: there is no such file or folder"),
        (("", "b.csv"), "IN: is empty"),
        (("a.csv", ""), "OUT: is empty"),
        (("a.pdf", "b.csv"), "a.pdf: its name must end in .csv, .tsv,"),
        (("same", "out/"), "out: a.txt and a.txt.csv would both be written to a.txt.csv"),
        (("empty", "b.csv"), "empty: holds no file whose name ends in .csv"),
        (("*.pdf", "b.csv"), "*.pdf: holds no file whose name ends in .csv"),
        (("a.csv", "b.txt"), "b.txt: its name must end in .csv"),
        (("a.csv", "a.csv"), "a.csv: must be outside OUT and OUT.partial"),
        (("a.csv", "many/1.csv"), "many/1.csv: already exists, and was not made from this input"),
        (("many", "many/1.csv"), "many/1.csv: already exists, and was not made from this input"),
        (("many", "many"), "many: must be outside OUT"),
        (("many", "."), "many: must be outside OUT"),
        (("many/*.csv", "many/"), "many/*.csv: must be outside OUT"),
        (("alias/x.csv", "full"), "alias/x.csv: must be outside OUT"),
        (("c.csv.partial/a.csv", "c.csv"), "c.csv.partial/a.csv: must be outside OUT"),
        (("a.csv", "full"), "full: already exists, and was not made from this input"),
        (("many", "b.csv"), "many/2.csv: has no column a, unlike "),
        (("s3://bucket/a.csv", "b.csv"), "s3://bucket/a.csv: Install s3fs to access S3"),
        (("nosuch://a.csv", "b.csv"), "nosuch://a.csv: Protocol not known: nosuch"),
        (("a.csv", "b.csv", "--report", "no/r.html"), "--report no/r.html: there is no such"),
        (("a.csv", "b.csv", "--report", "a.csv"), "--report a.csv: its name must end in .html"),
        (("a.csv", "b.csv", "--report", "b.csv"), "--report b.csv: its name must end in .html"),
        (("a.csv", "b.csv", "--report", "page.html"), "--report page.html: is a folder"),
        (("many", "out/", "--report", "out/r.html"), "--report out/r.html: must be outside OUT"),
        (("many", "full", "--report", "alias/r.html"), "--report alias/r.html: must be outside"),
        (("many", "o.html", "--report", "o.html"), "--report o.html: must be outside OUT"),
        (
            ("a.csv", "b.csv", "--report", "b.csv.partial/r.html"),
            "--report b.csv.partial/r.html: must be outside OUT",
        ),
        (("a.csv", "link.csv"), "link.csv: is a symbolic link"),
        (("many", "link"), "link: is a symbolic link"),
        (("a.csv", "folder.csv"), "folder.csv: is a folder"),
        (("a.csv", "b.csv", "--include-text"), "--include-text: needs --report"),
        (("a.csv", "a.csv/b.csv"), "a.csv/b.csv.partial: Not a directory"),
    ],
)
def test_a_command_that_cannot_be_carried_out(
    arguments: tuple[str, ...], message: str, refuse: Callable[..., str]
) -> None:
    Path("a.csv").write_text("text\na\n")
    Path("a.pdf").write_text("text\na\n")
    for folder in ("empty", "page.html", "folder.csv", "target"):
        Path(folder).mkdir()
    Path("link.csv").symlink_to("nowhere.csv")
    Path("link").symlink_to("target")
    Path("alias").symlink_to("full")
    for name, header in {
        "many/1.csv": "text,a",
        "many/2.csv": "text,b",
        "full/x.csv": "text",
        "same/a.txt": "text",
        "same/a.txt.csv": "text",
        "c.csv.partial/a.csv": "text",
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(f"{header}\n")
    before = sorted(Path().rglob("*"))
    assert refuse(*arguments).startswith(message)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.jsonl", "b.jsonl", "--delimiter", ";"), "--delimiter: is for CSV; neither IN nor OUT"),
        (("a.tsv", "b.tsv", "--delimiter", ";"), "--delimiter: is for CSV; neither IN nor OUT"),
        (("a.jsonl", "b.jsonl", "--quoting", "csv"), "--quoting: is for CSV, TSV; neither IN nor"),
        (("a.jsonl", "b.csv", "--no-header"), "--no-header: is for CSV, TSV, Excel; IN has no"),
        (("a.csv", "b.csv", "--sheet", "x"), "--sheet: is for Excel; IN has no such file"),
        (
            ("a.parquet", "b.csv", "--encoding", "cp1252"),
            "--encoding: is for CSV, TSV, JSONL, JSON, ",
        ),
        (("a.csv", "b.csv", "--num-actors", "2"), "--num-actors: needs --engine ray"),
        (("a.csv", "b.csv", "--by-file"), "--by-file: needs --engine ray"),
        (
            ("a.csv", "b.csv", "--engine", "ray", "--in-flight", "9"),
            "--in-flight: needs --engine r",
        ),
    ],
)
def test_an_option_without_effect_is_refused(
    arguments: tuple[str, ...], message: str, refuse: Callable[..., str]
) -> None:
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        Path(name).write_text('{"text": "a"}\n' if name == "a.jsonl" else "text\na\n")
    pq.write_table(pa.table({"text": ["a"]}), "a.parquet")
    assert refuse(*arguments).startswith(message)


def test_an_option_that_only_out_needs_is_taken(mini: None) -> None:
    Path("a.jsonl").write_text('{"id": 1, "text": "a b"}\n')
    assert score.main(["a.jsonl", "b.csv", "--delimiter", ";"]) == 0
    assert Path("b.csv").read_text().startswith("id;text;hate;")


def test_a_mount_point_cannot_become_out(
    refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None may be made here; what the system says of one is as simple as this."""
    Path("in").mkdir()
    Path("in/a.csv").write_text("text\na\n")
    Path("disk").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: str(path).endswith("/disk"))
    assert refuse("in", "disk") == "disk: is a mount point; name a folder in it instead"


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ((), {"MODEL_DIR": "nowhere"}, "MODEL_DIR=nowhere is not a folder"),
        ((), {"MODEL_DIR": "."}, "config.json is missing"),
        ((), {"DEVICE": "cuda:99"}, "DEVICE='cuda:99' is not allowed: there is no such device"),
        (("--engine", "runpod"), {}, "--endpoint is missing: the id of the Runpod endpoint"),
        (("--engine", "runpod", "--endpoint", "abc"), {}, "RUNPOD_API_KEY is not set"),
        (("--engine", "ray"), {"MODEL_DIR": "nowhere"}, "MODEL_DIR=nowhere is not a folder"),
    ],
)
def test_an_engine_that_lacks_something_is_refused_before_the_input_is_read(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    message: str,
    refuse: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if "ray" in arguments:
        pytest.importorskip("ray")
    Path("a.csv").write_text(f"text\n{SECRET},{SECRET}\n")  # a check would refuse it
    assert message in refuse("a.csv", "b.csv", *arguments)
    assert [path.name for path in Path().iterdir()] == ["a.csv"]


def test_a_ray_that_is_not_installed_is_missed_before_the_input_is_read(
    refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name == "ray" else real(name, *more),
    )
    Path("a.csv").write_text(f"text\n{SECRET},{SECRET}\n")
    said = refuse("a.csv", "b.csv", "--engine", "ray")
    assert said == "Ray is not installed: pip install -r requirements-ray.txt"
    assert [path.name for path in Path().iterdir()] == ["a.csv"]


@pytest.mark.parametrize("value", ["0", "-1", "x", "1000001"])
def test_options_out_of_range_are_named(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        score.main(["a.csv", "b.csv", "--chunk-rows", value])
    assert ended.value.code == 2
    assert "--chunk-rows: must be a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.xls", "save it as .xlsx"),
        ("A.CSV.ZIP", "unpack it first"),
        ("a.log", "--input-format says it for any name"),
    ],
)
def test_a_format_that_is_not_read_comes_with_advice(
    name: str, advice: str, refuse: Callable[..., str]
) -> None:
    Path(name).write_bytes(b"x")
    assert refuse(name, "b.csv").endswith(f" or .parquet; {advice}")


def test_a_glob_that_the_shell_expanded_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        score.main(["in/a.csv", "in/b.csv", "out.csv"])
    assert "arguments: out.csv; IN is one: put a glob in quotes" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        score.main(["a.csv", "out.csv", "--colour", "x"])
    assert capsys.readouterr().err.endswith("arguments: --colour x\n")


@pytest.mark.parametrize("value", ["a\tb", "a\n"])
def test_a_prefix_that_a_header_of_tsv_cannot_hold_is_refused(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        score.main(["a.csv", "b.tsv", "--prefix", value])
    assert "--prefix: must have no tab, line break" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["", ",,"])
def test_no_columns_to_group_by_are_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        score.main(["a.csv", "b.csv", "--report", "r.html", "--group-by", value])
    assert "--group-by: must be names of columns" in capsys.readouterr().err


def test_a_bad_setting_is_named(
    refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.csv").write_text("text\na\n")
    monkeypatch.setenv("MODEL_DIR", "nowhere")
    assert refuse("a.csv", "b.csv") == "MODEL_DIR=nowhere is not a folder"
    monkeypatch.setenv("DTYPE", "int4")
    assert "DTYPE='int4' is not allowed" in refuse("a.csv", "b.csv")


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    """A limit on the size of files stands for the disk's: what is written ends in the middle."""
    source, out = tmp_path / "a.csv", tmp_path / "b.csv"
    source.write_text("text,other\n" + f",{'x' * 100}\n" * 2000)
    command = [sys.executable, ROOT / "score.py", source, out]
    limited = ["bash", "-c", 'ulimit -f 64; exec "$@"', "bash", *command]
    for run, code in ((limited, 1), (command, 0)):
        done = subprocess.run(
            list(map(str, run)),
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert out.exists() == (code == 0)
        if code:
            full = f"{out}.partial/output/b.csv"
            assert done.stderr.splitlines()[-1] == f"error: {full}: File too large"
    assert len(out.read_text().splitlines()) == 2001


@pytest.mark.slow
def test_help_teaches_and_loads_no_engine() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "score.py"), "--help"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0
    for word in (
        "examples:",
        "how IN is read:",
        "how OUT is written:",
        "--engine",
        "--chunk-rows",
        "OUT.partial",
        "docs/bulk.md",
    ):
        assert word in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hatespeech.engine.encoder" in imported  # for the local engine's options
    assert not imported & {"torch", "ray", "transformers"}


@pytest.mark.slow
def test_threads_that_wait_sleep_before_torch_is_loaded(tmp_path: Path) -> None:
    """Set later, OpenMP would not see it: the command is watched importing torch."""
    (tmp_path / "a.csv").write_text("text\na\n")
    script = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
from hatespeech.bulk import command as score
score.main(["a.csv", "b.csv"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.stdout == "PASSIVE\n", done.stderr


def test_an_engine_that_is_unknown_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        score.main(["a.csv", "b.csv", "--engine", "abacus"])
    assert "--engine" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_parquet_file_that_asks_for_gigabytes_takes_a_line_and_no_memory(
    tmp_path: Path,
) -> None:
    """The file holds one long value, once, for many rows."""
    sound, bomb = tmp_path / "in" / "a.parquet", tmp_path / "in" / "b.parquet"
    sound.parent.mkdir()
    pq.write_table(pa.table({"text": ["good"], "page": [""]}), sound)
    pages = pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), ["x" * 80_000_000])
    pq.write_table(
        pa.table({"text": ["good"] * 4096, "page": pages}),
        bomb,
        store_schema=False,
        compression="zstd",
        dictionary_pagesize_limit=100_000_000,
    )
    assert bomb.stat().st_size < 100_000
    script = """
import sys
from hatespeech.bulk import command as score
from tests.support.memory import resident
code = score.main(sys.argv[1:])
print(resident("VmHWM"))
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, sound.parent, tmp_path / "out"],
        env={**environment(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: {bomb}: needs more than 1073741824 bytes of memory to be read"
    )
    assert int(done.stdout) < 700_000_000
    assert not (tmp_path / "out.partial").exists()
