"""Reading the published whole-module pickle: what comes out, and what a module must be."""

import json
import struct
from io import BytesIO
from pathlib import Path

import pytest
import torch

from hatespeech.fetching.pickle.module import (
    UnsafePickleError,
    check_state_dict,
    read_pickled_module,
)
from hatespeech.fetching.pickle.reader import read_pickle
from hatespeech.fetching.pickle.values import TensorView
from tests.support.pickles import malicious as evil
from tests.support.pickles.torch_files import (
    archive,
    legacy,
    pickle_of,
    replace_once,
    splice,
    with_pickle,
)
from tests.support.pickles.unpickling import (
    CHECKPOINTS,
    CONFIG,
    ENTRIES,
    PUBLISHED,
    refusal,
    run,
)
from tests.support.pickles.variants import VARIANTS

POSITION_IDS = "model.embeddings.position_ids"
CUSTOM_MODEL = ("utils.custom_model", "CustomModel")


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of modules saved by today's torch, and of what `state_dict()` says they hold."""
    folder = tmp_path_factory.mktemp("variants")
    run("tests.support.pickles.module", "variants", folder, *PUBLISHED)
    return folder


def assert_same(read: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(read) == list(expected)
    for key, tensor in expected.items():
        assert read[key].dtype == tensor.dtype, key
        assert read[key].stride() == tensor.stride(), key
        assert torch.equal(read[key], tensor), key


@pytest.mark.slow
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_format_gives_the_modules_own_state_dict(path: Path, variants: Path) -> None:
    module = read_pickled_module(path)
    assert_same(module.state_dict, torch.load(variants / f"{path.stem}.state_dict"))
    listed = json.loads((CHECKPOINTS / "tiny_state_dict_keys.json").read_text())
    found = {key: [list(t.shape), str(t.dtype)] for key, t in module.state_dict.items()}
    assert list(found.items()) == list(listed.items())
    assert module.config == CONFIG
    check_state_dict(module.state_dict, module.config)


@pytest.mark.slow
@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_way_of_saving_gives_the_modules_own_state_dict(
    name: str, container: str, variants: Path
) -> None:
    module = read_pickled_module(variants / f"{name}_{container}.pt")
    expected = torch.load(variants / f"{name}.state_dict")
    assert_same(module.state_dict, {key.removeprefix("module."): t for key, t in expected.items()})
    assert not any(tensor.requires_grad for tensor in module.state_dict.values())
    assert module.config["layer_norm_eps"] == 1e-5
    assert module.config["num_attention_heads"] == 4
    check_state_dict(module.state_dict, module.config)


def test_legacy_file_of_torch_1_11_reads_like_its_archive(tmp_path: Path) -> None:
    path = tmp_path / "model_7"
    path.write_bytes(legacy(ENTRIES))
    module = read_pickled_module(path)
    assert_same(module.state_dict, read_pickled_module(PUBLISHED[0]).state_dict)
    assert module.config == CONFIG


@pytest.mark.slow
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_tied_weights_stay_tied(container: str, variants: Path) -> None:
    state = read_pickled_module(variants / f"tied_{container}.pt").state_dict
    prefix = "model.encoder.layer.0.attention.self"
    query, key = state[f"{prefix}.query.weight"], state[f"{prefix}.key.weight"]
    assert query.data_ptr() == key.data_ptr()
    assert state[f"{prefix}.value.weight"].data_ptr() != key.data_ptr()


def test_tensors_survive_a_change_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model_7"
    path.write_bytes(PUBLISHED[0].read_bytes())
    state = read_pickled_module(path).state_dict
    path.write_bytes(b"")
    assert_same(state, read_pickled_module(PUBLISHED[0]).state_dict)
    state["linear2.bias"].add_(1)


@pytest.mark.slow
def test_reading_imports_nothing() -> None:
    (report,) = run("tests.support.pickles.read", PUBLISHED[0])
    assert report["reason"] is None
    assert [name for name in report["imported"] if not name.startswith("encodings")] == []


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [((), (), 15), ((16,), (1,), 0), ((4, 4), (1, 4), 0), ((2, 2), (8, 3), 4), ((1, 4), (0, 5), 0)],
)
def test_views_inside_their_storage_are_read(
    shape: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> None:
    view = evil.tensor(evil.number(offset), evil.numbers(*shape), evil.numbers(*stride))
    value = read_pickle(BytesIO(evil.PROTO + view + b"."), "zip").value
    assert isinstance(value, TensorView)
    assert (value.shape, value.stride, value.offset) == (shape, stride, offset)


def module(class_: tuple[str, str], **members: bytes) -> bytes:
    """Return the opcodes of a module without anything but these members."""
    held = {"_modules": b"}", "_parameters": b"}", "_buffers": b"}"}
    held["_non_persistent_buffers_set"] = evil.call("__builtin__", "set", b"]")
    pairs = (evil.text(name) + value for name, value in {**held, **members}.items())
    return evil.name(*class_) + evil.EMPTY_TUPLE + evil.NEWOBJ + evil.dict_(*pairs) + evil.BUILD


def without_storages(value: bytes) -> bytes:
    """Return an archive that holds a pickle of this value, and no storage."""
    return archive({"archive/data.pkl": evil.PROTO + value + b"."})


def test_root_that_is_not_a_custom_model_is_refused(tmp_path: Path) -> None:
    linear = evil.name(*evil.LINEAR) + evil.EMPTY_TUPLE + evil.NEWOBJ
    for payload in (linear, evil.NONE, evil.text("CustomModel"), evil.name(*evil.LINEAR)):
        assert "does not hold a CustomModel" in refusal(tmp_path, without_storages(payload))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_alone_are_told_from_a_whole_module(
    legacy: bool, wrapped: bool, tmp_path: Path
) -> None:
    weights = torch.nn.Linear(2, 2).state_dict()
    file = tmp_path / "weights.pt"
    content = {"model": dict(weights), "epoch": 3} if wrapped else weights
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnsafePickleError, match="weights alone"):
        read_pickled_module(file)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (None, "holds something that is not a module"),
        ({}, "lacks its _modules"),
        ({"_modules": evil.EMPTY_LIST}, "lacks its _modules"),
        ({"_modules": evil.dict_(evil.number(0), evil.NONE)}, "impossible name"),
        ({"_modules": evil.dict_(evil.text("a.b"), evil.NONE)}, "impossible name"),
        ({"_modules": evil.dict_(evil.text(""), evil.NONE)}, "impossible name"),
        ({"_modules": evil.dict_(evil.text("x" * 129), evil.NONE)}, "impossible name"),
        ({"_modules": evil.dict_(evil.text("é"), evil.NONE)}, "impossible name"),
        ({"_modules": evil.dict_(evil.text("x"), evil.number(1))}, "not a module"),
        ({"_parameters": evil.dict_(evil.text("x"), evil.number(1))}, "not a tensor"),
        ({"_buffers": evil.dict_(evil.text("x"), evil.EMPTY_DICT)}, "not a tensor"),
        ({"_parameters": evil.NONE}, "lacks its _parameters"),
        ({"_non_persistent_buffers_set": evil.EMPTY_LIST}, "lacks its set"),
        (
            {
                "_non_persistent_buffers_set": evil.call(
                    "__builtin__", "set", b"](" + evil.NONE * 65 + b"e"
                )
            },
            "lacks its set",
        ),
    ],
)
def test_module_of_an_impossible_shape_is_refused(
    state: dict[str, bytes] | None, reason: str, tmp_path: Path
) -> None:
    child = evil.name(*evil.LINEAR) + evil.EMPTY_TUPLE + evil.NEWOBJ
    if state is not None:
        child = module(evil.LINEAR, **state) if state else child + evil.EMPTY_DICT + evil.BUILD
    root = module(CUSTOM_MODEL, _modules=evil.dict_(evil.text("child"), child))
    assert reason in refusal(tmp_path, without_storages(root))


def test_configuration_among_the_modules_is_refused(tmp_path: Path) -> None:
    config = "transformers.models.roberta.configuration_roberta", "RobertaConfig"
    pooler = evil.name("transformers.models.roberta.modeling_roberta", "RobertaPooler")
    data = replace_once(pickle_of(ENTRIES), pooler, evil.name(*config))
    assert "not a module" in refusal(tmp_path, archive(with_pickle(ENTRIES, data)))


def one_storage(root: bytes) -> bytes:
    """Return an archive that holds a pickle of this value, and storage 900: sixteen floats."""
    return archive({"a/data.pkl": evil.PROTO + root + b".", "a/data/900": bytes(64)})


VIEW = evil.tensor(evil.number(0), evil.numbers(4), evil.numbers(1))


def test_tensors_are_bounded_in_number(tmp_path: Path) -> None:
    def many(count: int) -> bytes:
        repeated = (evil.text(str(n)) + b"h\x00" for n in range(1, count))
        parameters = evil.dict_(evil.text("0"), VIEW, b"q\x00", *repeated)
        return one_storage(module(CUSTOM_MODEL, _parameters=parameters))

    assert "more than 4096 tensors" in refusal(tmp_path, many(4097))
    path = tmp_path / "model_7"
    path.write_bytes(many(4096))
    assert len(read_pickled_module(path).state_dict) == 4096


def test_parameter_and_buffer_of_one_name_are_refused(tmp_path: Path) -> None:
    root = module(
        CUSTOM_MODEL,
        _parameters=evil.dict_(evil.text("x"), VIEW),
        _buffers=evil.dict_(evil.text("x"), VIEW),
    )
    assert "two have one name" in refusal(tmp_path, one_storage(root))


def test_weight_that_is_not_a_matrix_is_refused(tmp_path: Path) -> None:
    linear = module(evil.LINEAR, _parameters=evil.dict_(evil.text("weight"), VIEW))
    root = module(CUSTOM_MODEL, _modules=evil.dict_(evil.text("linear1"), linear))
    assert "linear1.weight is not a matrix" in refusal(tmp_path, one_storage(root))


@pytest.mark.parametrize(
    ("attribute", "value", "field"),
    [
        ("vocab_size", evil.number(999), "vocab_size"),
        ("hidden_size", evil.number(32), "hidden_size"),
        ("num_hidden_layers", evil.number(3), "num_hidden_layers"),
        ("num_attention_heads", evil.number(8), "num_attention_heads"),
        ("intermediate_size", evil.number(64), "intermediate_size"),
        ("max_position_embeddings", evil.number(512), "max_position_embeddings"),
        ("type_vocab_size", evil.number(2), "type_vocab_size"),
        ("pad_token_id", evil.number(3), "pad_token_id"),
        ("layer_norm_eps", b"G" + struct.pack(">d", 1e-12), "layer_norm_eps"),
        ("layer_norm_eps", b"G" + struct.pack(">d", float("nan")), "layer_norm_eps"),
        ("eps", evil.EMPTY_LIST, "layer_norm_eps"),
    ],
)
def test_file_that_contradicts_itself_is_refused(
    attribute: str, value: bytes, field: str, tmp_path: Path
) -> None:
    data = splice(pickle_of(ENTRIES), attribute, value)
    reason = refusal(tmp_path, archive(with_pickle(ENTRIES, data)))
    assert reason == f"the file contradicts itself about {field}"


def test_configuration_of_wrong_types_is_refused(tmp_path: Path) -> None:
    for field, value in (("vocab_size", evil.TRUE), ("hidden_act", evil.EMPTY_LIST)):
        data = splice(pickle_of(ENTRIES), field, value)
        reason = refusal(tmp_path, archive(with_pickle(ENTRIES, data)))
        assert reason.startswith(f"the configuration's {field} is not of type")


def test_configuration_may_leave_fields_out_and_write_nought_as_an_integer(
    tmp_path: Path,
) -> None:
    data = splice(pickle_of(ENTRIES), "hidden_dropout_prob", evil.number(0))
    data = splice(data, "bos_token_id", evil.NONE)
    data = splice(data, "vocab_size", evil.NONE)
    path = tmp_path / "model_7"
    path.write_bytes(archive(with_pickle(ENTRIES, data)))
    expected = {**CONFIG, "hidden_dropout_prob": 0}
    del expected["bos_token_id"]
    assert read_pickled_module(path).config == expected


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return read_pickled_module(PUBLISHED[0]).state_dict


def test_strict_check_takes_every_type_and_no_position_ids(
    state: dict[str, torch.Tensor],
) -> None:
    del state[POSITION_IDS]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        check_state_dict({key: tensor.to(dtype) for key, tensor in state.items()}, CONFIG)


@pytest.mark.parametrize("key", ["linear2.bias", "model.encoder.layer.1.output.dense.weight"])
def test_strict_check_refuses_a_missing_key(key: str, state: dict[str, torch.Tensor]) -> None:
    del state[key]
    with pytest.raises(UnsafePickleError, match=f"lacks {key}"):
        check_state_dict(state, CONFIG)


def test_strict_check_refuses_an_unexpected_key(state: dict[str, torch.Tensor]) -> None:
    state["model.embeddings.token_type_ids\n"] = torch.zeros(1)
    with pytest.raises(UnsafePickleError, match=r"unexpected key: 'model\.[a-z_.]+\\n'$"):
        check_state_dict(state, CONFIG)


@pytest.mark.parametrize("key", ["linear1.weight", POSITION_IDS])
def test_strict_check_refuses_a_wrong_shape(key: str, state: dict[str, torch.Tensor]) -> None:
    state[key] = state[key].t()
    with pytest.raises(UnsafePickleError, match=f"{key} has shape"):
        check_state_dict(state, CONFIG)


def test_strict_check_refuses_mixed_and_integer_types(state: dict[str, torch.Tensor]) -> None:
    for key, dtype in (("linear2.bias", torch.float16), (POSITION_IDS, torch.float32)):
        with pytest.raises(UnsafePickleError, match=f"{key} has type {dtype}"):
            check_state_dict({**state, key: state[key].to(dtype)}, CONFIG)
    for dtype in (torch.int64, torch.float64):
        with pytest.raises(UnsafePickleError, match="weights are not floating point"):
            check_state_dict({key: tensor.to(dtype) for key, tensor in state.items()}, CONFIG)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_strict_check_refuses_values_that_are_not_finite(
    value: float, dtype: torch.dtype, state: dict[str, torch.Tensor]
) -> None:
    del state[POSITION_IDS]
    key = "model.embeddings.word_embeddings.weight"
    changed = {name: tensor.to(dtype) for name, tensor in state.items()}
    changed[key][500, 7] = value
    with pytest.raises(UnsafePickleError, match=f"{key} holds values that are not finite"):
        check_state_dict(changed, CONFIG)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": None}, "impossible"),
        ({"num_attention_heads": 5}, "impossible"),
        ({"num_hidden_layers": 10**9}, "lacks layers"),
        ({"num_hidden_layers": 1}, "unexpected key"),
        ({"num_hidden_layers": 3}, "lacks layers"),
        ({"vocab_size": 1001}, "has shape"),
        ({"vocab_size": 2**62}, "too large"),
        ({"num_labels": 2**70}, "too large"),
        ({"vocab_size": 9, "pad_token_id": 9}, "outside the vocabulary"),
        ({"hidden_act": "relu"}, "hidden_act"),
    ],
)
def test_strict_check_refuses_a_configuration_that_does_not_fit(
    change: dict[str, object], reason: str, state: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(UnsafePickleError, match=reason):
        check_state_dict(state, {**CONFIG, **change})


def test_strict_check_refuses_a_configuration_without_a_size(
    state: dict[str, torch.Tensor],
) -> None:
    sizes = {name: value for name, value in CONFIG.items() if name != "layer_norm_eps"}
    with pytest.raises(UnsafePickleError, match="lacks layer_norm_eps"):
        check_state_dict(state, sizes)
