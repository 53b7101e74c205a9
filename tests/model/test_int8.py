"""Products in int8 against those of torch, alone and in company, and folders that hold int8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import sample_texts
from hatespeech import paths
from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor, choose_dtype
from hatespeech.errors import CheckpointError, SettingsError
from hatespeech.model import checkpoint as checkpoints
from hatespeech.model import int8
from hatespeech.model.checkpoint import SCALE, WEIGHTS, WORD_EMBEDDINGS, Checkpoint
from hatespeech.settings import EngineSettings
from tests.paths import ROOT

needs_int8 = pytest.mark.skipif(not int8.is_exact(), reason="this processor has no VNNI")


def classifier(folder: Path, dtype: str = "int8") -> Predictor:
    return Predictor.from_settings(
        EngineSettings.model_validate({"model_dir": folder, "device": "cpu", "dtype": dtype})
    )


def scores(predictor: Predictor, texts: list[str]) -> Tensor:
    rows = [result.scores for result in predictor.score(texts) if isinstance(result, Prediction)]
    assert len(rows) == len(texts)
    return torch.tensor(rows)


@pytest.fixture(scope="module")
def folder(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The small checkpoint, stored in int8."""
    source = checkpoints.describe(small_checkpoint)
    return checkpoints.save(
        tmp_path_factory.mktemp("int8") / "folder",
        checkpoints.load_model(source).state_dict(),
        source.model,
        checkpoints.load_tokenizer(source),
        name="int8",
        provenance={},
        dtype=torch.int8,
    )


def test_a_quantised_matrix_is_off_by_half_a_step_and_stays_when_quantised_again() -> None:
    torch.manual_seed(3)
    weight = torch.randn(300, 64) * torch.logspace(-12, 6, 300)[:, None]
    weight[7] = 0
    numbers, scales = int8.quantize(weight)
    off = (int8.dequantize(numbers, scales) - weight).abs()
    assert (off <= scales[:, None] * 0.501).all()
    again, same = int8.quantize(int8.dequantize(numbers, scales))
    assert torch.equal(again, numbers)
    assert torch.equal(same[scales > 1e-29], scales[scales > 1e-29])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_not_hidden_by_int8(value: float) -> None:
    weight = torch.ones(3, 4)
    weight[1, 2] = value
    with pytest.raises(ValueError, match="not finite"):
        int8.quantize(weight)


@pytest.fixture(params=[96, 97])  # a float32 may begin behind 96 bytes
def products(request: pytest.FixtureRequest) -> tuple[nn.Linear, list[Tensor]]:
    """A layer, and what its product in int8 reads."""
    torch.manual_seed(5)
    layer = nn.Linear(request.param, 80).requires_grad_(False)
    return layer, int8.pack(layer.weight, layer.bias)


@needs_int8
@pytest.mark.parametrize("count", [1, 7, 8, 511, 1300])
@torch.inference_mode()
def test_int8_products_are_close_to_those_of_torch(
    count: int, products: tuple[nn.Linear, list[Tensor]]
) -> None:
    layer, packed = products
    torch.manual_seed(count)
    rows = torch.randn(count, layer.in_features) * torch.logspace(-2, 2, count)[:, None]
    rows[-1] = 0
    expected = layer(rows)
    error = (int8.product(rows, packed, False) - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < 0.02
    activated = F.gelu(expected)
    assert (int8.product(rows, packed, True) - activated).norm() < 0.02 * activated.norm()


@needs_int8
@torch.inference_mode()
def test_a_row_that_is_not_finite_gives_a_product_that_is_not(
    products: tuple[nn.Linear, list[Tensor]],
) -> None:
    rows = torch.randn(8, products[0].in_features)
    rows[3] = float("nan")
    finite = torch.isfinite(int8.product(rows, products[1], False)).all(1)
    assert finite.tolist() == [index != 3 for index in range(8)]


@needs_int8
def test_scores_in_int8_do_not_depend_on_company() -> None:
    texts = sample_texts()[:60]
    predictor = classifier(paths.EMBEDDED)
    together = scores(predictor, texts)
    assert torch.equal(together, scores(predictor, texts))
    backwards = scores(predictor, texts[::-1]).flip(0)
    alone = torch.cat([scores(predictor, [text]) for text in texts])
    assert torch.equal(backwards, together)
    assert torch.equal(alone, together)


@needs_int8
def test_int8_agrees_with_float32_on_the_sample() -> None:
    texts = sample_texts()
    exact, quick = (scores(classifier(paths.EMBEDDED, d), texts) for d in ("float32", "int8"))
    agreed = (exact.argmax(1) == quick.argmax(1)).float().mean()
    assert agreed >= 0.99
    assert 0 < (exact - quick).abs().amax(1).mean() <= 0.005


@needs_int8
def test_a_folder_in_int8_scores_as_one_that_is_quantised_when_loaded(
    folder: Checkpoint, small_checkpoint: Path
) -> None:
    texts = sample_texts()[:20]
    stored, loaded = classifier(folder.path), classifier(small_checkpoint)
    assert (stored.dtype, loaded.dtype) == ("int8", "int8")
    assert torch.equal(scores(stored, texts), scores(loaded, texts))


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_a_folder_in_int8_is_multiplied_out_for_any_other_dtype(
    folder: Checkpoint, small_checkpoint: Path, dtype: str
) -> None:
    texts = sample_texts()[:20]
    predictor = classifier(folder.path, dtype)
    assert predictor.dtype == ("bfloat16" if dtype == "bfloat16" else "float32")
    off = scores(predictor, texts) - scores(classifier(small_checkpoint, "float32"), texts)
    assert 0 < off.abs().max() < 0.1


def test_a_folder_in_int8_is_sound_small_and_says_what_it_is(
    folder: Checkpoint, small_checkpoint: Path
) -> None:
    checkpoints.verify(folder.path)
    assert '"torch_dtype": "int8"' in (folder.path / "config.json").read_text(encoding="utf-8")
    assert folder.model_id.split("@")[1] != checkpoints.describe(small_checkpoint).model_id
    stored = load_file(folder.path / WEIGHTS)
    whole = load_file(small_checkpoint / WEIGHTS)
    in_int8 = {key for key, tensor in stored.items() if tensor.dtype == torch.int8}
    layers = [key for key in whole if key.startswith("model.encoder") and whole[key].dim() == 2]
    assert in_int8 == {WORD_EMBEDDINGS, *layers}
    assert {key.removesuffix(SCALE) for key in stored.keys() - whole.keys()} == in_int8


def test_a_scale_that_is_missing_is_named(folder: Checkpoint, tmp_path: Path) -> None:
    state = load_file(folder.path / WEIGHTS)
    del state[WORD_EMBEDDINGS + SCALE]
    for file in folder.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"word_embeddings\.weight_scale"):
        checkpoints.load_model(checkpoints.describe(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not int8.is_exact(), reason="it is refused without pretending")
@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_a_processor_without_the_instructions_is_refused(
    small_checkpoint: Path, instructions: str
) -> None:
    code = (
        "import sys; from hatespeech.engine.predictor import Predictor\n"
        "from hatespeech.errors import SettingsError\n"
        "from hatespeech.settings import EngineSettings\n"
        "settings = EngineSettings(model_dir=sys.argv[1], device='cpu', dtype='int8')\n"
        "try: Predictor.from_settings(settings)\n"
        "except SettingsError as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(small_checkpoint)],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "DTYPE='int8' is not allowed" in run.stdout, run.stderr


def test_a_gpu_is_refused_int8(small_checkpoint: Path) -> None:
    settings = EngineSettings(model_dir=small_checkpoint, dtype="int8")
    with pytest.raises(SettingsError, match="on CPUs only"):
        choose_dtype(settings, torch.device("cuda:0"))
