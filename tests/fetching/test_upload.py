"""A checkpoint folder goes to the hub with its card, and comes back as Runpod caches it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hatespeech.engine.predictor import choose_folder
from hatespeech.fetching.hub_upload import card_with_metadata
from hatespeech.model.checkpoint import describe, verify
from hatespeech.settings import EngineSettings
from tests.paths import ROOT
from tests.support.processes.worker import clean_environment
from tests.support.stand_ins.hub import TOKEN, Hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def folder(small_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    shutil.copytree(small_checkpoint, folder)
    (folder / "README.md").write_text("# Small\n")
    (folder / "notes.txt").write_text("not for others")
    return folder


def python(
    hub: Hub, home: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=clean_environment(home, None)
        | hub.environment
        | {"HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


UPLOAD = ("-c", "import sys; from hatespeech.fetching.hub_upload import main; sys.exit(main())")
DOWNLOAD = "import huggingface_hub; huggingface_hub.snapshot_download('org/name')"


@pytest.mark.slow
def test_what_is_uploaded_is_served_from_a_cache_of_the_hub(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    ran = python(hub, tmp_path, *UPLOAD, str(folder), "org/name", "--license", "mit")
    assert ran.returncode == 0, ran.stderr
    uploaded = describe(folder)
    assert ran.stdout.startswith(f"{uploaded.model_id}: uploaded as commit ")
    assert "MODEL_ID=org/name\n" in ran.stdout
    assert hub.private == {"org/name": True}
    assert hub.messages == [uploaded.model_id]
    files = hub.files["org/name"]
    assert files.keys() == {"model.safetensors", "config.json", "tokenizer.json", "README.md"}
    assert files["README.md"].decode() == card_with_metadata("# Small\n", ["en"], "mit")
    assert (folder / "README.md").read_text() == "# Small\n"

    # As Runpod fetches it: by the hub's own client, into a cache.
    fetched = python(hub, tmp_path, "-c", DOWNLOAD)
    assert fetched.returncode == 0, fetched.stderr
    settings = EngineSettings.from_environment(
        {"MODEL_ID": "org/name", "HF_HOME": str(tmp_path / "hf")}
    )
    found = choose_folder(settings)
    assert found.parent.parent.name == "models--org--name"
    assert verify(found).model_id == uploaded.model_id

    # Again: the repository is there, and everyone may not read it even if asked now.
    again = python(hub, tmp_path, *UPLOAD, str(folder), "org/name", "--public")
    assert again.returncode == 0, again.stderr
    assert hub.private == {"org/name": True}


@pytest.mark.slow
def test_a_refusal_of_the_hub_is_one_line_that_says_what_to_do(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    wrong = python(hub, tmp_path, *UPLOAD, str(folder), "org/name", HF_TOKEN="hf_wrong")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == (
        "error: the hub answers HTTP 401; set HF_TOKEN to a token that may write there\n"
    )
    unnamed = python(hub, tmp_path, *UPLOAD, str(folder), "org//name")
    assert unnamed.stderr == "error: org//name is not a repository's name, such as ORG/NAME\n"
    assert TOKEN not in wrong.stderr + unnamed.stderr
    assert hub.files == {}


@pytest.mark.slow
def test_a_folder_that_is_damaged_or_has_no_card_is_not_uploaded(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    (folder / "README.md").unlink()
    ran = python(hub, tmp_path, *UPLOAD, str(folder), "org/name")
    assert ran.returncode == 1
    assert "has no README.md" in ran.stderr
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    ran = python(hub, tmp_path, *UPLOAD, str(folder), "org/name")
    assert ran.returncode == 1
    assert "does not have the SHA-256" in ran.stderr
    assert hub.private == {}


def test_a_card_that_has_metadata_stays_as_it_is() -> None:
    card = "---\nlicense: mit\n---\n# Mine\n"
    assert card_with_metadata(card, ["en"], "apache-2.0") == card
    made = card_with_metadata("# Mine\n", ["en", "de"], None)
    assert made.startswith('---\nlanguage: ["en", "de"]\n')
    assert made.endswith("---\n\n# Mine\n")
    assert "license" not in made
