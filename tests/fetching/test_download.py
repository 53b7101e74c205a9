"""``download.py``: what it makes, from what, and how it treats what is already there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.labels import LABELS
from hatespeech.model import checkpoint as checkpoints
from hatespeech.settings import EngineSettings
from tests.paths import DATA, ROOT
from tests.support.processes.download import (
    CONTENT,
    PICKLE,
    SHA256,
    arguments_for,
    call,
    environment,
    finish,
    is_one_line,
    snapshot,
    start,
)
from tests.support.stand_ins.file_server import Answer, FileServer

CUT = 300_000
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secretsecretsecret"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A folder made from a local file by a user whose umask hides everything."""
    output = tmp_path_factory.mktemp("made") / "deep" / "down" / "tiny"
    before = os.umask(0o077)
    try:
        code, _, err = call("--checkpoint", PICKLE, "--tokenizer", tokenizer, "--output", output)
    finally:
        os.umask(before)
    assert (code, err) == (0, "")
    return output


@pytest.fixture(scope="module")
def figure(made: Path) -> dict[str, float]:
    """What the tiny checkpoint says about ``Hello World``."""
    classifier = Predictor.from_settings(
        EngineSettings(model_dir=made, device="cpu", dtype="float32")
    )
    (score,) = classifier.score(["Hello World"])
    assert isinstance(score, Prediction)
    return dict(zip(LABELS, score.scores, strict=True))


# What is made


@pytest.mark.slow
def test_a_run_needs_no_transformers_and_says_what_it_made(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "transformers").mkdir()  # found first, and not to be used
    (tmp_path / "transformers" / "__init__.py").write_text("raise ImportError('not needed')")
    output = tmp_path / "tiny"
    given = ["--checkpoint", str(PICKLE), "--tokenizer", str(tokenizer), "--output", str(output)]
    code, out, err = finish(start(given, environment(tmp_path, PYTHONPATH=str(tmp_path))))
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"{output}: made, verified"


def test_converted_checkpoint_reproduces_the_published_stack(made: Path) -> None:
    classifier = Predictor.from_settings(
        EngineSettings(model_dir=made, device="cpu", dtype="float32")
    )
    model = checkpoints.load_model(checkpoints.describe(made))
    expected = json.loads((DATA / "checkpoints" / "tiny_expected.json").read_text())
    assert len(expected["cases"]) == 20
    for case in expected["cases"]:
        sequences = [
            [token for token, present in zip(ids, mask, strict=True) if present]
            for ids, mask in zip(case["input_ids"], case["attention_mask"], strict=True)
        ]
        with torch.inference_mode():
            logits = model.forward_sequences(sequences)
        probabilities = torch.tensor(classifier.probabilities(sequences))
        torch.testing.assert_close(logits, torch.tensor(case["logits"]), rtol=0, atol=1e-5)
        torch.testing.assert_close(probabilities, torch.tensor(case["probs"]), rtol=0, atol=1e-5)


def test_weights_keep_the_published_names_without_the_position_ids(made: Path) -> None:
    published = json.loads((DATA / "checkpoints" / "tiny_state_dict_keys.json").read_text())
    with safe_open(made / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == published.keys() - {"model.embeddings.position_ids"}


def test_any_user_can_read_the_folder_whatever_the_umask(made: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert {path.stat().st_mode & 0o777 for path in made.iterdir()} == {0o644}
    folders = (made, made.parent, made.parent.parent)
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o755}


def test_nothing_else_is_left(made: Path) -> None:
    assert [path.name for path in made.parent.iterdir()] == ["tiny"]


def test_provenance_records_the_file_and_no_local_folder(made: Path, tokenizer: Path) -> None:
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    provenance = config["provenance"]
    assert provenance["source"] == {"file": PICKLE.name, "size": len(CONTENT), "sha256": SHA256}
    assert provenance["tokenizer"] == {
        "source": "small-bpe",
        "files": {path.name: sha256(path.read_bytes()).hexdigest() for path in tokenizer.iterdir()},
    }
    assert provenance["versions"]["torch"] == torch.__version__
    assert {"python", "safetensors", "tokenizers"} <= provenance["versions"].keys()
    assert datetime.fromisoformat(provenance["converted"]).tzinfo is not None
    assert (config["name"], config["torch_dtype"]) == ("tiny", "float32")
    for file in ("config.json", "README.md"):
        text = (made / file).read_text(encoding="utf-8")
        assert str(DATA) not in text
        assert str(made.parent) not in text
        assert SHA256 in text


@pytest.mark.slow
def test_app_serves_the_folder(made: Path, tmp_path: Path, figure: dict[str, float]) -> None:
    job = '{"input": {"prompt": "Hello World"}}'
    run = subprocess.run(
        [sys.executable, str(ROOT / "app.py"), "--test_input", job],
        env=environment(tmp_path, MODEL_DIR=str(made), DEVICE="cpu", DTYPE="float32"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    reply = json.loads(run.stdout)
    assert {label: reply[label] for label in LABELS} == pytest.approx(figure, abs=1e-6)
    assert reply["model"].startswith("tiny@")


def test_float16_halves_the_file_and_scores_alike(
    made: Path, tokenizer: Path, tmp_path: Path, figure: dict[str, float]
) -> None:
    output = tmp_path / "half"
    arguments = arguments_for(PICKLE, tokenizer, output)
    expected = [f"{label}={score:.6f}" for label, score in figure.items()]
    code, out, err = call(*arguments, "--dtype", "float16", "--expect", "Hello World", *expected)
    assert (code, err) == (0, "")
    assert "self-check 'Hello World': hate " in out
    with safe_open(output / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (output, made)]
    assert 0.49 < sizes[0] / sizes[1] < 0.53
    card = (output / "README.md").read_text(encoding="utf-8")
    assert f"| 'Hello World' | spam | {figure['spam']:.6f} |" in card


def test_int8_makes_the_file_small_and_scores_alike(
    made: Path, tokenizer: Path, tmp_path: Path, figure: dict[str, float]
) -> None:
    output = tmp_path / "int8"
    arguments = [*arguments_for(PICKLE, tokenizer, output), "--dtype", "int8"]
    expected = [f"{label}={score:.6f}" for label, score in figure.items()]
    assert call(*arguments, "--expect", "Hello World", *expected)[::2] == (0, "")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (output, made)]
    assert sizes[0] / sizes[1] < 0.55  # a third of this tiny model is positions, which stay
    assert "quantised by row" in (output / "README.md").read_text(encoding="utf-8")
    out = call(*arguments)[1]
    assert out.startswith(f"{output}: already exists, verified")
    assert f"\n  MODEL_DIR={output} python evaluate.py LABELLED --card\n" in out
    assert "HateCheck (CC BY 4.0)" in out


# What is already there


def test_finished_folder_is_recognised_and_left_as_it_is(made: Path, tokenizer: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    given = arguments_for(PICKLE, tokenizer, made)
    code, out, err = call(*given, "--sha256", SHA256)
    assert (code, err) == (0, "")
    assert out.startswith(f"{made}: already exists, verified\ntiny@")
    assert {path: path.stat().st_mtime_ns for path in made.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--checkpoint", str(PICKLE.with_name("tiny_train_zip.pt"))], "source file is tiny_eval"),
        (["--checkpoint", "https://example.org/m"], "source url is not recorded, not https"),
        (["--dtype", "float16"], "dtype is float32, not float16"),
        (["--tokenizer", "vinai/bertweet-large"], "tokenizer source is small-bpe"),
        (["--sha256", "0" * 64], f"the checkpoint file's SHA-256 is {SHA256}"),
        (["--expect", "Hello World", "spam=0.999"], "self-check: 'Hello World' scores spam"),
    ],
)
def test_folder_made_from_something_else_is_an_error_and_stays(
    made: Path, tokenizer: Path, changes: list[str], said: str
) -> None:
    before = snapshot(made)
    given = [*arguments_for(PICKLE, tokenizer, made), *changes]
    code, out, err = call(*given)
    assert (code, out) == (1, "")
    assert said in err
    assert is_one_line(err)
    assert snapshot(made) == before


def test_other_tokenizer_files_under_the_same_name_are_an_error(
    made: Path, tokenizer: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tokenizer, tmp_path / "small-bpe"))
    merges = (other / "merges.txt").read_text(encoding="utf-8").splitlines()
    (other / "merges.txt").write_text("\n".join(merges[:-1]) + "\n", encoding="utf-8")
    code, _, err = call("--checkpoint", PICKLE, "--tokenizer", other, "--output", made)
    assert code == 1
    assert "tokenizer files merges.txt is" in err


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_damaged_folder_is_an_error(made: Path, tokenizer: Path, tmp_path: Path, file: str) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "tiny"))
    content = bytearray((folder / file).read_bytes())
    content[-5] ^= 1
    (folder / file).write_bytes(content)
    code, _, err = call("--checkpoint", PICKLE, "--tokenizer", tokenizer, "--output", folder)
    assert (code, is_one_line(err)) == (1, True)
    assert f"is damaged: {file}" in err
    assert (folder / file).read_bytes() == content


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dangling link", "embedded"])
def test_output_that_is_something_else_is_never_touched(
    made: Path, tokenizer: Path, tmp_path: Path, kind: str
) -> None:
    output = tmp_path / "output"
    if kind == "file":
        output.write_text("mine")
    elif kind == "dangling link":
        output.symlink_to(tmp_path / "nowhere")
    elif kind == "embedded":  # a sound checkpoint folder that was not downloaded
        shutil.copytree(made, output)
        config = json.loads((output / "config.json").read_text())
        config["provenance"] = {"source": "trained here", "tokenizer": "trained here"}
        (output / "config.json").write_text(json.dumps(config))
    else:
        output.mkdir()
        if kind == "folder":
            (output / "thesis.tex").write_text("mine")
    before = snapshot(tmp_path)
    code, _, err = call("--checkpoint", PICKLE, "--tokenizer", tokenizer, "--output", output)
    assert (code, is_one_line(err)) == (1, True)
    said = "was made from other files" if kind == "embedded" else "exists and is not a finished"
    assert f"{output} {said}" in err
    assert snapshot(tmp_path) == before
    assert output.is_symlink() == (kind == "dangling link")


# The whole way


@pytest.mark.slow
def test_everything_fetched_with_credentials_that_are_recorded_nowhere(
    server: FileServer, tokenizer: Path, tmp_path: Path, figure: dict[str, float]
) -> None:
    files = {path.name: path.read_bytes() for path in tokenizer.iterdir()}
    more = {"pytorch_model.bin": b"large", "config.json": b"{}", "README.md": b"# hi"}
    hub = server.serve_hub("vinai/tiny", "v1.0", COMMIT, files | more)
    server.serve("/real", CONTENT, Answer(status=500), Answer(cut=CUT), Answer())
    server.serve("/m", b"", Answer(status=307, headers={"Location": "/real?X-Sig=s3cr3t2"}))
    output, kept = tmp_path / "out", tmp_path / "out.pickle"
    given = ["--checkpoint", f"http://amy:hunter2@{server.address}/m?X-Sig=s3cr3t", "--keep"]
    given += ["--tokenizer", "vinai/tiny", "--output", str(output), "--sha256", SHA256.upper()]
    given += ["--expect", "Hello World", f"spam={figure['spam']:.3f}"]
    code, out, err = finish(
        start(
            given,
            environment(tmp_path, HF_ENDPOINT=hub, HF_TOKEN=TOKEN, TOKENIZER_REVISION="v1.0"),
            umask=0o077,
        )
    )
    assert code == 0, err
    assert "500 Internal Server Error; trying again in 0.5 s" in err
    assert kept.read_bytes() == CONTENT
    assert kept.stat().st_mode & 0o777 == 0o644
    left = sorted(path.name for path in tmp_path.iterdir() if path.name != "hf")
    assert left == ["out", "out.pickle"]

    provenance = json.loads((output / "config.json").read_text(encoding="utf-8"))["provenance"]
    source = provenance["source"]
    assert source["url"] == f"http://{server.address}/m"
    assert (source["sha256"], source["size"]) == (SHA256, len(CONTENT))
    assert datetime.fromisoformat(source["fetched"]).tzinfo is not None
    assert provenance["tokenizer"]["source"] == "vinai/tiny"
    assert provenance["tokenizer"]["revision"] == "v1.0"
    assert provenance["tokenizer"]["commit"] == COMMIT
    assert provenance["tokenizer"]["files"].keys() == files.keys()

    fetched = {r.path for r in server.requests if "/resolve/" in r.path}
    assert fetched == {f"/vinai/tiny/resolve/{COMMIT}/{name}" for name in files}
    hub_requests = [r for r in server.requests if "vinai" in r.path]
    assert {r.headers["authorization"] for r in hub_requests} == {f"Bearer {TOKEN}"}
    others = [r for r in server.requests if r not in hub_requests]
    assert {r.path.partition("?")[0] for r in others} == {"/m", "/real"}
    assert not any(TOKEN in str(r.headers) for r in others)
    written = out + err + (output / "config.json").read_text() + (output / "README.md").read_text()
    for secret in (TOKEN, "amy", "hunter2", "X-Sig", "s3cr3t"):
        assert secret not in written


def test_kept_file_in_the_way_is_an_error_before_anything_is_fetched(
    server: FileServer, tokenizer: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.pickle").write_text("mine")
    url = server.serve("/model", CONTENT)
    code, _, err = call(*arguments_for(url, tokenizer, tmp_path / "out"), "--keep")
    assert (code, is_one_line(err)) == (1, True)
    assert (tmp_path / "out.pickle").read_text() == "mine"
    assert server.requests == []


def test_local_file_behind_a_link_is_converted_and_kept(tokenizer: Path, tmp_path: Path) -> None:
    link = tmp_path / "model_7"
    link.symlink_to(PICKLE)
    code, _, _ = call("--checkpoint", link, "--tokenizer", tokenizer, "--output", tmp_path / "out")
    assert code == 0
    assert link.is_symlink()
    assert PICKLE.read_bytes() == CONTENT
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["provenance"]["source"]["file"] == "model_7"
