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

from hatespeech.paths import EMBEDDED
from hatespeech.serving.settings import ServerSettings
from hatespeech.version import __version__
from tests.paths import ROOT
from tests.support.environments import with_requirements
from tests.support.image.layers import LEFT_OUT, is_pickle
from tests.support.imports import imported_names, transitive_imports

FLAVOURS = ("gpu", "cpu")
EXTRAS = ("grpc", "postgres", "redis", "otel")
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


def environment_of(*stages: Sequence[Instruction]) -> dict[str, str]:
    """Return what these stages set, the later over the earlier."""
    texts = [text for each in stages for text in arguments(each, "ENV")]
    return dict(pair.split("=", 1) for text in texts for pair in shlex.split(text))


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


def argument(name: str) -> str:
    """Return the default of an argument before the first stage."""
    (value,) = (text for text in arguments(STAGES[0], "ARG") if text.startswith(f"{name}="))
    return value.removeprefix(f"{name}=")


def test_base_images_are_pinned_by_digest_and_bring_the_torch_of_the_requirements() -> None:
    digest = r"@sha256:[0-9a-f]{64}"
    gpu = re.fullmatch(
        rf"pytorch/pytorch:(\S+?)-cuda[\d.]+-cudnn\d+-runtime{digest}", argument("BASE_IMAGE")
    )
    cpu = re.fullmatch(rf"python:3\.1[12]\.\d+-slim-\w+{digest}", argument("CPU_BASE_IMAGE"))
    assert gpu
    assert cpu
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert f"torch=={gpu[1]}\n" in requirements
    (install,) = arguments(stage("cpu-base"), "RUN")
    assert install.endswith(f" torch=={gpu[1]}")


def test_every_stage_builds_on_a_base_image() -> None:
    names = {"${BASE_IMAGE}", "${CPU_BASE_IMAGE}"}
    for each in STAGES[1:]:
        image, _, name = each[0].text.partition(" AS ")
        assert {image.replace("${FLAVOUR}", flavour) for flavour in FLAVOURS} <= names
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


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_environment_of_the_image_is_allowed_by_the_settings(flavour: str) -> None:
    environment = environment_of(stage(f"{flavour}-base"), FINAL)
    settings = ServerSettings.from_environment(environment)
    folder = Path("/app/checkpoints/bertweet-large")
    assert settings.model_dir == (folder if flavour == "gpu" else None)
    assert settings.device == ("auto" if flavour == "gpu" else "cpu")
    assert settings.host == "0.0.0.0"
    assert (environment["HF_HUB_OFFLINE"], environment["TRANSFORMERS_OFFLINE"]) == ("1", "1")


def test_image_holds_what_its_checkpoint_stage_made_and_not_what_it_fetched() -> None:
    sources = [text.split()[:2] for text in arguments(FINAL, "COPY") if "--from=" in text]
    assert sources == [["--from=packages", "/opt/worker"], ["--from=checkpoint", "/made"]]


def test_the_cpu_flavour_holds_the_embedded_checkpoint_and_downloads_none() -> None:
    assert stage("cpu-checkpoint")[0].text.startswith("base ")
    folder = EMBEDDED.relative_to(ROOT)
    assert set(copied(stage("cpu-checkpoint"))) == {
        str(path.relative_to(ROOT)) for path in EMBEDDED.iterdir()
    }
    (copy,) = arguments(stage("cpu-checkpoint"), "COPY")
    assert copy == f"{folder} /made/{folder}"


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
    files = set(copied(stage("gpu-checkpoint")))
    assert files >= transitive_imports(ROOT, "download.py").files
    package = ROOT / "hatespeech"
    floors = [
        *package.glob("*.py"),
        *(p for name in CONVERTING for p in (package / name).rglob("*")),
    ]
    expected = {str(path.relative_to(ROOT)) for path in floors if path.is_file()}
    assert files == {"download.py"} | {path for path in expected if "__pycache__" not in path}


def test_nothing_in_the_conversion_layer_knows_http() -> None:
    for file in copied(stage("gpu-checkpoint")):
        if file.endswith(".py"):
            names = imported_names(ROOT / file)
            found = [name for name in names if any(f"{name}.".startswith(f"{h}.") for h in HTTP)]
            assert not found, file


@pytest.mark.parametrize("script", ["app.py", "server.py"])
def test_image_holds_all_that_its_scripts_import(script: str) -> None:
    imports = transitive_imports(ROOT, script)
    assert imports.files <= set(copied(FINAL))
    assert "hatespeech/text/emoji_names.tsv" in copied(FINAL)
    # Without an extra the setting that needs it is refused, by the extra's name, and so are
    # uploads without pyarrow.
    extras = "".join(
        (ROOT / f"requirements-{name}.txt").read_text(encoding="utf-8")
        for name in (*EXTRAS, "excel")  # uploads are no workbooks
    )
    optional = {"pyarrow", *re.findall(r"^([\w-]+)==", extras, re.MULTILINE)}
    there = {"torch"} | optional | (pins().keys() - left_out())
    holders = packages_distributions()  # several, of a package that is a namespace
    for package in imports.packages:
        assert there & {canonicalize_name(holder) for holder in holders[package]}, package


def left_out() -> set[str]:
    """Return the packages of the lock that the image leaves out."""
    lines = (DOCKER / "left_out.txt").read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def test_what_the_image_leaves_out_is_in_the_lock() -> None:
    assert left_out() <= pins().keys()
    lines = (DOCKER / "left_out.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len({*lines}) + lines.count("") - 1, "a package stands there twice"


# What the image's Python can't import, in this Python.
WITHOUT = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in LEFT_OUT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
"""


@pytest.mark.slow
@pytest.mark.parametrize("door", ["worker", "serving"])
def test_neither_front_needs_what_the_image_leaves_out(door: str) -> None:
    names = left_out()
    modules = {
        package
        for package, holders in packages_distributions().items()
        if {canonicalize_name(holder) for holder in holders} <= names
    }
    assert {"transformers", "pyarrow", "boto3"} <= modules
    code = f"LEFT_OUT = {modules!r}{WITHOUT}"
    if door == "worker":
        code += "import hatespeech.worker.command, runpod, hatespeech.worker.job_loop\n"
        code += "import hatespeech.worker.posting, runpod.serverless.modules.rp_fastapi\n"
    else:
        code += "from hatespeech.serving.command import load_app; load_app()\n"
        code += "import hatespeech.serving.uploads.upload, hatespeech.serving.jobs.sqlite\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ALLOW_ANONYMOUS": "1", "RUNPOD_LOG_LEVEL": "INFO"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_lock_of_the_extras_holds_what_their_requirements_pin() -> None:
    lines = (ROOT / "requirements-extras.lock").read_text(encoding="utf-8").splitlines()
    locked = dict(re.findall(r"^([a-z0-9][\w.-]*)==([^ ]+)", "\n".join(lines), re.MULTILINE))
    for name in ("grpc", "postgres", "redis"):
        text = (ROOT / f"requirements-{name}.txt").read_text(encoding="utf-8")
        for package, version in re.findall(r"^([\w-]+)==(\S+)", text, re.MULTILINE):
            assert locked[package] == version
    both = locked.keys() & pins().keys()
    assert both
    for package in both:
        assert pins()[package].startswith(f"{package}=={locked[package]} ")


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_of_the_image_is_all_that_its_requirements_need(extra: str) -> None:
    script = (DOCKER / "install_packages").read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.search(
        rf"^ *{extra}\)\s*install_pinned requirements\S*.lock (.*?)( ;;)?$", script, re.M | re.S
    )
    assert found
    lines = (ROOT / f"requirements-{extra}.txt").read_text(encoding="utf-8").splitlines()
    needed = with_requirements(line for line in lines if not line.startswith("#"))
    # Of Python 3.11, what its first releases lack.
    older = {"async-timeout"} if extra == "redis" else set[str]()
    assert set(found[1].split()) == needed - (pins().keys() - left_out()) | older


def test_conversion_has_the_packages_that_the_worker_lacks() -> None:
    needed = with_requirements(distributions_of(transitive_imports(ROOT, "download.py").packages))
    (select, _) = arguments(stage("gpu-checkpoint"), "RUN")
    chosen = set(select.partition("requirements.lock ")[2].partition(" >")[0].split())
    kept = pins().keys() - left_out()
    assert needed - kept - with_requirements(["torch"]) <= chosen <= needed


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
    (_, command) = arguments(stage("gpu-checkpoint"), "RUN")
    command = command.partition(" && mkdir ")[0]
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
