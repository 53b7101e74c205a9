"""The Dockerfile, as far as reading it can tell; ``scripts/check-image`` builds and runs it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from hatespeech.serving.settings import ServerSettings
from hatespeech.version import __version__
from tests.paths import ROOT
from tests.support.environments import with_requirements
from tests.support.image.layers import LEFT_OUT, is_pickle
from tests.support.imports import imported_names, transitive_imports

DOCKER = ROOT / "docker"
LOCK = ROOT / "requirements.lock"


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str  # after the name, continuation lines joined


def parse_dockerfile() -> list[list[Instruction]]:
    """Return the instructions before the first FROM, then those of each stage."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    stages: list[list[Instruction]] = [[]]
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.strip():
            name, rest = line.split(maxsplit=1)
            if name == "FROM":
                stages.append([])
            stages[-1].append(Instruction(name, rest))
    return stages


STAGES = parse_dockerfile()
FINAL = STAGES[-1]


def stage(name: str) -> list[Instruction]:
    (found,) = (each for each in STAGES[1:] if each[0].text.endswith(f" AS {name}"))
    return found


def arguments(instructions: Sequence[Instruction], name: str) -> list[str]:
    return [each.text for each in instructions if each.name == name]


def copied(instructions: Sequence[Instruction]) -> list[str]:
    """Return what a stage copies from the project, folders and patterns expanded into files."""
    files: list[str] = []
    for text in arguments(instructions, "COPY"):
        if text.startswith("--from="):
            continue
        for source in shlex.split(text)[:-1]:
            found = list(ROOT.glob(source))
            assert found, f"COPY {source}: there is no such file"
            for path in found:
                inside = [path] if path.is_file() else path.rglob("*")
                files += [str(p.relative_to(ROOT)) for p in inside if p.is_file()]
    return [file for file in files if "__pycache__" not in file]


def pins() -> dict[str, str]:
    """Return the lock file's lines that begin an entry, by name."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    return {line.partition("==")[0]: line for line in lines if re.match(r"[a-z0-9]", line)}


def distributions_of(packages: frozenset[str]) -> set[str]:
    """Return the distributions that hold these import packages."""
    by_package = packages_distributions()
    return {canonicalize_name(by_package[package][0]) for package in packages}


# The Dockerfile.


def test_base_image_is_pinned_by_digest_and_brings_the_torch_of_the_requirements() -> None:
    (base,) = (text for text in arguments(STAGES[0], "ARG") if text.startswith("BASE_IMAGE="))
    match = re.fullmatch(
        r"BASE_IMAGE=pytorch/pytorch:(\S+?)-cuda[\d.]+-cudnn\d+-runtime@sha256:[0-9a-f]{64}", base
    )
    assert match
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert f"torch=={match[1]}\n" in requirements


def test_every_stage_builds_on_the_base_image() -> None:
    names = {"${BASE_IMAGE}"}
    for each in STAGES[1:]:
        image, _, name = each[0].text.partition(" AS ")
        assert image in names
        names.add(name)


def test_container_runs_as_a_numbered_user_who_is_not_root() -> None:
    (user,) = arguments(FINAL, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


@pytest.mark.parametrize("name", ["ENTRYPOINT", "CMD"])
def test_start_needs_no_shell(name: str) -> None:
    (command,) = arguments(FINAL, name)
    assert isinstance(json.loads(command), list)


def test_health_check_needs_no_shell_and_names_a_file_of_the_image() -> None:
    (text,) = arguments(FINAL, "HEALTHCHECK")
    *_, script = json.loads(text.partition("CMD ")[2])
    assert script.removeprefix("/app/") in copied(FINAL)


def test_nothing_in_the_dockerfile_is_secret() -> None:
    declared = [
        re.split("[= ]", text, maxsplit=1)[0]
        for each in STAGES
        for text in (*arguments(each, "ARG"), *arguments(each, "ENV"))
    ]
    secrets = re.compile(r"TOKEN$|SECRET|PASSWORD|KEY|CREDENTIAL", re.IGNORECASE)
    assert not [name for name in declared if secrets.search(name)]
    assert "REVISION" in declared  # the list is not empty for want of parsing


def environment_of_the_image() -> dict[str, str]:
    (text,) = arguments(FINAL, "ENV")
    return dict(each.split("=", 1) for each in shlex.split(text))


def test_environment_of_the_image_is_allowed_by_the_settings() -> None:
    environment = environment_of_the_image()
    settings = ServerSettings.from_environment(environment)
    assert settings.model_dir == Path("/app/checkpoints/bertweet-large")
    assert settings.host == "0.0.0.0"
    assert (environment["HF_HUB_OFFLINE"], environment["TRANSFORMERS_OFFLINE"]) == ("1", "1")


def test_image_holds_what_its_checkpoint_stage_made_and_not_what_it_fetched() -> None:
    sources = [text.split()[:2] for text in arguments(FINAL, "COPY") if "--from=" in text]
    assert sources == [
        ["--from=packages", "/opt/worker"],
        ["--from=checkpoint", "/app/checkpoints/bertweet-large"],
    ]


def test_version_label_is_the_projects_version() -> None:
    assert f"VERSION={__version__}" in arguments(FINAL, "ARG")


# What is copied where.


def test_download_layer_depends_on_the_fetching_code_alone() -> None:
    # The package's own __init__, and what that imports, is not among it: without one it is a
    # namespace, which does as well.
    files = transitive_imports(ROOT, "docker/fetch.py").files - {
        "hatespeech/__init__.py",
        "hatespeech/libraries.py",
        "hatespeech/version.py",
    }
    assert set(copied(stage("fetching"))) == files


# Folders of the package that convert a checkpoint; its ground floor is the files beside them.
CONVERTING = ("text", "model", "engine", "fetching")
HTTP = ("fastapi", "starlette", "uvicorn", "hatespeech.serving")


def test_conversion_layer_holds_what_download_py_imports_in_whole_folders() -> None:
    files = set(copied(stage("checkpoint")))
    assert files >= transitive_imports(ROOT, "download.py").files
    package = ROOT / "hatespeech"
    floors = [
        *package.glob("*.py"),
        *(p for name in CONVERTING for p in (package / name).rglob("*")),
    ]
    expected = {str(path.relative_to(ROOT)) for path in floors if path.is_file()}
    assert files == {"download.py"} | {path for path in expected if "__pycache__" not in path}


def test_nothing_in_the_conversion_layer_knows_http() -> None:
    for file in copied(stage("checkpoint")):
        if file.endswith(".py"):
            names = imported_names(ROOT / file)
            found = [name for name in names if any(f"{name}.".startswith(f"{h}.") for h in HTTP)]
            assert not found, file


@pytest.mark.parametrize("script", ["app.py", "server.py"])
def test_image_holds_all_that_its_scripts_import(script: str) -> None:
    imports = transitive_imports(ROOT, script)
    assert imports.files <= set(copied(FINAL))
    assert "hatespeech/text/emoji_names.tsv" in copied(FINAL)
    # Without an extra the setting that needs it is refused, by the extra's name.
    extras = "".join(
        (ROOT / f"requirements-{name}.txt").read_text(encoding="utf-8")
        for name in ("grpc", "postgres", "redis")
    )
    optional = set(re.findall(r"^([\w-]+)==", extras, re.MULTILINE))
    assert distributions_of(imports.packages) - {"torch"} - optional <= pins().keys()


def let_in(file: str, patterns: Sequence[str]) -> bool:
    """Say whether a file gets past ``.dockerignore``: the last line that fits it decides."""
    names = [file, *map(str, list(Path(file).parents)[:-1])]  # what fits a folder fits all in it
    decided = True
    for pattern in patterns:
        escaped = re.escape(pattern.removeprefix("!"))
        fits = escaped.replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(fits, name) for name in names):
            decided = pattern.startswith("!")
    return decided


def test_every_copied_file_gets_past_dockerignore_and_nothing_else_does() -> None:
    wanted = {file for each in STAGES[1:] for file in copied(each)}
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    tops = [path for path in ROOT.iterdir() if let_in(path.name, patterns)]
    there = [file for top in tops for file in ([top] if top.is_file() else top.rglob("*"))]
    names = [str(file.relative_to(ROOT)) for file in there if file.is_file()]
    assert {name for name in names if let_in(name, patterns)} == wanted


def test_download_stage_pins_what_the_fetching_code_needs() -> None:
    needed = with_requirements(
        distributions_of(transitive_imports(ROOT, "docker/fetch.py").packages)
    )
    (text,) = arguments(stage("fetching-pins"), "RUN")
    chosen = text.partition("requirements.lock ")[2].partition(" >")[0].split()
    assert sorted(chosen) == sorted(needed)


@pytest.mark.slow
@pytest.mark.parametrize("pin", ["", "0" * 64], ids=["unset", "hash"])
def test_a_build_says_how_to_pin_a_checkpoint_that_is_not(pin: str, tmp_path: Path) -> None:
    (command,) = arguments(stage("checkpoint"), "RUN")
    work = tmp_path / "checkpoints" / ".bertweet-large.partial"
    work.mkdir(parents=True)
    (work / "checkpoint.part").write_bytes(b"weights")
    (tmp_path / "download.py").write_text("import sys; print(*sys.argv[1:])")
    done = subprocess.run(
        ["sh", "-c", command.replace("/opt/worker/bin/python", sys.executable)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "CHECKPOINT_SHA256": pin, "DTYPE": "float16"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stdout.endswith(f"--dtype float16 --sha256 {pin}\n" if pin else "float16\n")
    digest = hashlib.sha256(b"weights").hexdigest()
    said = "" if pin else f"--build-arg CHECKPOINT_SHA256={digest}\n"
    assert done.stderr.endswith(said) if said else not done.stderr


def test_health_check_asks_the_servers_default_port() -> None:
    script = (DOCKER / "healthcheck.py").read_text(encoding="utf-8")
    assert f'\nPORT = "{ServerSettings().port}"' in script
    assert f"{ServerSettings().port}" in arguments(FINAL, "EXPOSE")


# What the check of the image looks for.


def test_check_recognises_the_checkpoints_pickle() -> None:
    pickle = ROOT / "tests/data/checkpoints/tiny_eval_zip.pt"
    assert is_pickle(pickle.read_bytes())
    assert not is_pickle(b"PK\x05\x06" + bytes(18))
    assert not is_pickle(LOCK.read_bytes())


def test_check_looks_for_what_must_stay_outside() -> None:
    for name in ("tests/image/test_image.py", ".env", "hatespeech/bulk/run.py", "download.py"):
        assert LEFT_OUT.fullmatch(f"app/{name}")
    for name in ("hatespeech/settings.py", "hatespeech/serving/app.py", "server.py"):
        assert not LEFT_OUT.fullmatch(f"app/{name}")
