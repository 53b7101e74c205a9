"""The command ``hatespeech``: its table of commands, its help, what it imports, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import shtab

from hatespeech.console.command_table import COMMANDS, SHELLS, load
from hatespeech.console.commands import run
from hatespeech.console.completion import completion_script
from hatespeech.version import __version__
from tests.paths import ROOT
from tests.support.processes.worker import clean_environment

# Each command but some is what one script of the checkout does.
WITHOUT_SCRIPT: Final = {"report", "upload"}
SCRIPTS: Final = {
    "score": "score.py",
    "serve": "server.py",
    "worker": "app.py",
    "download": "download.py",
    "evaluate": "evaluate.py",
    "train": "train.py",
}


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        run([*arguments, "--help"])
    return capsys.readouterr().out


def test_without_arguments_it_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    shown = capsys.readouterr().out
    assert shown == help_of(capsys)
    for word in (*COMMANDS, 'hatespeech "you are scum"', "hatespeech -- train", "Exit codes:"):
        assert word in shown
    assert "COMMAND" not in shown


def test_every_command_has_its_script() -> None:
    assert COMMANDS.keys() == SCRIPTS.keys() | WITHOUT_SCRIPT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("score", ["nowhere.csv", "out.csv"]),
        ("report", ["nowhere.csv"]),
        ("evaluate", ["nowhere.csv"]),
        ("download", ["--output", "."]),
        ("upload", ["nowhere", "ORG/NAME"]),
        ("train", ["--train", "a.tsv", "--dev", "a.tsv", "--output", "."]),
    ],
)
def test_a_mistyped_setting_is_a_line_before_anything_else(
    name: str, arguments: list[str], tmp_path: Path
) -> None:
    """That of ``serve``, ``worker`` and a text is tested where they are."""
    done = subprocess.run(
        [sys.executable, "-m", "hatespeech", name, *arguments],
        cwd=tmp_path,
        env={**clean_environment(tmp_path, None), "PYTHONPATH": str(ROOT), "MAX_WINDOW": "secret"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    first, *others = done.stderr.splitlines()
    assert first == "MAX_WINDOW is not a setting; did you mean MAX_WINDOWS?"
    assert others[-1].startswith("error: ")
    assert "secret" not in done.stderr


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_of_a_command_names_what_was_called(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = help_of(capsys, name)
    assert shown.startswith(f"usage: hatespeech {name} ")
    assert f"  hatespeech {name}" in shown.partition("examples:")[2]

    if name in WITHOUT_SCRIPT:
        return
    script = SCRIPTS[name]
    with pytest.raises(SystemExit, match="0"):
        load(COMMANDS[name].main)(["--help"])
    same = capsys.readouterr().out
    assert same.startswith(f"usage: {script} ")
    assert f"  python {script}" in same.partition("examples:")[2]
    for text in (shown, same):
        assert "COMMAND" not in text


@pytest.mark.parametrize("name", list(COMMANDS))
def test_bad_arguments_end_with_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run([name, "--no-such-option"])
    assert "error: " in capsys.readouterr().err


def test_the_exit_code_of_a_command_is_its_scripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing.csv")
    assert run(["score", missing, str(tmp_path / "out.csv")]) == 1
    assert run(["worker", "--test_input", "{}"]) == 1
    assert all(line.startswith("error: ") for line in capsys.readouterr().err.splitlines())


@pytest.mark.slow
def test_a_failed_command_ends_the_process_with_its_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatespeech", "worker", "--test_input", "{}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    error = 'error: validation: --test_input: must be an object with "input"\n'
    assert (done.returncode, done.stdout, done.stderr) == (1, "", error)


@pytest.mark.slow
def test_version_is_the_packages_and_needs_no_large_import() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hatespeech", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, f"hatespeech {__version__}\n")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hatespeech.console.commands" in imported
    assert not imported & {"torch", "fastapi", "pydantic", "pyarrow", "runpod", "tqdm"}


def test_a_completion_script_is_offered_for_each_shell_that_the_library_knows() -> None:
    assert sorted(SHELLS) == sorted(shtab.SUPPORTED_SHELLS)
    for shell in SHELLS:
        assert all(name in completion_script(shell) for name in COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["s"], ["score", "serve"]),
        (["score", "--te"], ["--text-column"]),
        (["score", "--engine", ""], ["local", "ray", "runpod"]),
        (["score", "tweets"], ["tweets.csv"]),
        (["download", "--dtype", "f"], ["float32", "float16"]),
        (["worker", "--test_input", "tw"], ["tweets.csv"]),
        (["train", "--about", "tw"], ["tweets.csv"]),
        (["--js"], ["--json"]),
        (["--print-completion", "z"], ["zsh"]),
    ],
)
def test_bash_completes_commands_options_choices_and_files(
    tmp_path: Path, words: list[str], offered: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tweets.csv").touch()
    assert run(["--print-completion", "bash"]) == 0
    (tmp_path / "completion.bash").write_text(capsys.readouterr().out, encoding="utf-8")
    ask = (
        'source completion.bash; COMP_WORDS=(hatespeech "$@"); COMP_CWORD=$#; '
        "_shtab_hatespeech; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "-c", ask, "bash", *words],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.split(), done.stderr) == (offered, "")
