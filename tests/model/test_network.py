"""The network against ``transformers.RobertaModel`` with the same weights."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence

import pytest
import torch
from torch import nn
from transformers import RobertaConfig, RobertaModel

from hatespeech.model import packing
from hatespeech.model.network import CustomModel, ModelConfig
from hatespeech.model.packing import ROW_STEP, ROWS_AT_ONCE, PackedBatch
from hatespeech.model.prepared import prepare
from tests.support.checkpoints import random_model

PAD = 1
SIZES = ModelConfig(
    vocab_size=300,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=96,
    classifier_size=24,
)


@pytest.fixture(scope="module")
def model() -> CustomModel:
    return random_model(SIZES)


@pytest.fixture(scope="module")
def prepared(model: CustomModel) -> CustomModel:
    """The same model as the service loads it on a CPU."""
    prepared = copy.deepcopy(model)
    prepare(prepared)
    return prepared.requires_grad_(False)


@pytest.fixture(scope="module")
def reference(model: CustomModel) -> nn.Module:
    config = RobertaConfig(
        vocab_size=SIZES.vocab_size,
        hidden_size=SIZES.hidden_size,
        num_hidden_layers=SIZES.num_hidden_layers,
        num_attention_heads=SIZES.num_attention_heads,
        intermediate_size=SIZES.intermediate_size,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=PAD,
        layer_norm_eps=1e-5,
    )
    reference: nn.Module = RobertaModel(config)
    reference.eval()
    assert not any(reference.load_state_dict(model.model.state_dict(), strict=True))
    return reference


def sequences_of(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    dice = random.Random(seed)
    return [
        [0, *(dice.randrange(4, SIZES.vocab_size) for _ in range(length - 2)), 2]
        for length in lengths
    ]


@torch.inference_mode()
def expected_states(
    reference: nn.Module, sequences: Sequence[Sequence[int]], padded: bool
) -> list[torch.Tensor]:
    if not padded:
        return [reference(torch.tensor([ids])).last_hidden_state[0] for ids in sequences]
    longest = max(map(len, sequences))
    ids = torch.tensor([[*s, *[PAD] * (longest - len(s))] for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
    states = reference(ids, attention_mask=mask).last_hidden_state
    return [row[: len(s)] for row, s in zip(states, sequences, strict=True)]


MIXTURES = {
    "one of three tokens": [3],
    "one of 512 tokens": [512],
    "all of one length": [17] * 6,
    "ascending": [3, 4, 9, 30, 31, 33, 120, 512],
    "descending": [512, 120, 33, 31, 30, 9, 4, 3],
    "shuffled": [40, 3, 512, 7, 7, 41, 3, 200, 13, 511],
}


@pytest.fixture(params=["cpu", "cuda"])
def grouped_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Group sequences as for this kind of device, wherever the tensors are."""
    bounds = packing.group_bounds
    kind: str = request.param
    monkeypatch.setattr(
        packing, "group_bounds", lambda lengths, _device: bounds(lengths, torch.device(kind))
    )
    return kind


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("lengths", MIXTURES.values(), ids=MIXTURES.keys())
@torch.inference_mode()
def test_hidden_states_equal_those_of_transformers(
    model: CustomModel,
    reference: nn.Module,
    lengths: list[int],
    padded: bool,
    grouped_for: str,
) -> None:
    sequences = sequences_of(lengths)
    expected = expected_states(reference, sequences, padded)
    batch = PackedBatch.pack(sequences, PAD, "cpu")
    needs_padding = len(set(lengths)) > 1 and grouped_for == "cuda"
    assert any(group.places is not None for group in batch.groups) == needs_padding
    packed = model.model(batch)
    first_only = model.model(batch, first_only=True)
    assert sorted(batch.order) == list(range(len(sequences)))
    for place, original in enumerate(batch.order):
        start = int(batch.first[place])
        states = packed[start : start + lengths[original]]
        torch.testing.assert_close(states, expected[original], rtol=0, atol=1e-5)
        torch.testing.assert_close(first_only[place], expected[original][0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("lengths", MIXTURES.values(), ids=MIXTURES.keys())
@torch.inference_mode()
def test_prepared_logits_are_those_of_transformers_states(
    prepared: CustomModel, reference: nn.Module, lengths: list[int]
) -> None:
    sequences = sequences_of(lengths)
    first = torch.stack([s[0] for s in expected_states(reference, sequences, padded=False)])
    expected = prepared.linear2(torch.relu(prepared.linear1(first)))
    found = prepared.forward_sequences(sequences)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("grouped_for")
@torch.inference_mode()
def test_every_length_from_3_to_512_equals_transformers(
    model: CustomModel, reference: nn.Module
) -> None:
    sequences = sequences_of(range(3, 513, 7))
    packed = model.model(PackedBatch.pack(sequences, PAD, "cpu"), first_only=True)
    expected = torch.stack([s[0] for s in expected_states(reference, sequences, padded=False)])
    torch.testing.assert_close(packed, expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_padding_id_inside_a_text_takes_the_padding_position(
    model: CustomModel, reference: nn.Module
) -> None:
    sequences = [[0, 7, PAD, 9, 2], [0, PAD, PAD, 2], [0, 5, 2]]
    batch = PackedBatch.pack(sequences, PAD, "cpu")
    packed = model.model(batch, first_only=True)
    expected = expected_states(reference, sequences, padded=False)
    for place, original in enumerate(batch.order):
        torch.testing.assert_close(packed[place], expected[original][0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["model", "prepared"])
@torch.inference_mode()
def test_logits_come_in_the_order_given_and_do_not_depend_on_company(
    kind: str, request: pytest.FixtureRequest
) -> None:
    model: CustomModel = request.getfixturevalue(kind)
    sequences = sequences_of([40, 3, 300, 7, 8, 41, 3, 512, 60, 511, 2])
    assert sum(map(len, sequences)) > 2 * ROWS_AT_ONCE
    together = model.forward_sequences(sequences)
    alone = torch.cat([model.forward_sequences([sequence]) for sequence in sequences])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    # Clearly different texts, or the order would not be tested.
    assert len({tuple(row) for row in together.round(decimals=3).tolist()}) == len(sequences)


@pytest.mark.parametrize("lengths", [[3, 9, 17, 400, 13, 255], [3], [512], [30] * 40], ids=str)
@torch.inference_mode()
def test_a_prepared_model_gets_few_shapes_of_rows(
    prepared: CustomModel, lengths: list[int]
) -> None:
    rows: list[int] = []
    firsts: list[int] = []

    def note(_module: nn.Module, inputs: tuple[PackedBatch]) -> None:
        rows.append(len(inputs[0].input_ids))
        firsts.append(len(inputs[0].first))

    hook = prepared.register_forward_pre_hook(note)
    prepared.forward_sequences(sequences_of(lengths))
    hook.remove()
    assert sum(rows) >= sum(lengths)
    assert all(count % ROW_STEP == 0 for count in rows + firsts)
    assert max(rows) <= ROWS_AT_ONCE


def test_linear_layers_see_only_tokens_that_exist(model: CustomModel) -> None:
    rows: list[int] = []
    widening = model.get_submodule("model.encoder.layer.0.output.dense")
    hook = widening.register_forward_hook(
        lambda _module, inputs, _output: rows.append(inputs[0].shape[0])
    )
    lengths = [3, 90, 17, 400]
    model.forward_sequences(sequences_of(lengths))
    hook.remove()
    assert rows == [sum(lengths)]


def test_state_dict_keys_are_those_of_the_published_checkpoint() -> None:
    with torch.device("meta"):
        published = CustomModel(ModelConfig())
    state = published.state_dict()
    # 396 in the pickle, of which model.embeddings.position_ids is a buffer of transformers' own.
    assert len(state) == 395
    assert sum(weight.numel() for weight in state.values()) == 355_886_596
    assert {"linear1.weight", "linear2.bias", "model.pooler.dense.weight"} <= state.keys()


def test_an_empty_batch_and_an_empty_sequence_are_refused() -> None:
    for sequences in ([], [[0, 2], []]):
        with pytest.raises(ValueError, match="at least one"):
            PackedBatch.pack(sequences, PAD, "cpu")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 50),
        ("hidden_size", 0),
        ("vocab_size", "many"),
        ("num_hidden_layers", True),
        ("max_position_embeddings", 4),
        ("layer_norm_eps", -1.0),
        ("pad_token_id", -1),
    ],
)
def test_impossible_sizes_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        ModelConfig.from_dict({"num_attention_heads": 16, field: value})


def test_padding_is_counted_as_the_groups_are_cut() -> None:
    lengths = [20, 3, 3, 4, 21, 400]
    assert packing.padding(lengths, torch.device("cpu")) == 0
    assert packing.padding(lengths, torch.device("cuda")) == (4 - 3) * 2 + (21 - 20)


@pytest.mark.parametrize("workers", [1, 8])
def test_parts_hold_every_sequence_once_and_at_most_so_many_tokens(workers: int) -> None:
    lengths = [20, 300, 3, 3, 300, 700, 4, 300, 512]
    parts = packing.parts_of([[0] * length for length in lengths], 512, workers)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    found = [[lengths[i] for i in part] for part in parts]
    assert found == [[3, 3, 4, 20, 300], [300], [300], [512], [700]]
    assert packing.parts_of([], 512, workers) == []


def test_parts_for_several_workers_leave_none_of_them_without_work() -> None:
    lengths = random.Random(3).choices(range(5, 60), k=90)
    sequences = [[0] * length for length in lengths]
    assert 2 < len(packing.parts_of(sequences, 512, 1)) < 8
    for workers in (2, 4):
        parts = packing.parts_of(sequences, 512, workers)
        assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
        assert not len(parts) % workers
        tokens = [sum(lengths[i] for i in part) for part in parts]
        assert max(tokens) <= 512
        assert max(tokens) < 1.3 * min(tokens)
    assert packing.parts_of(sequences, 512, 8) == packing.parts_of(sequences, 512, 1)
