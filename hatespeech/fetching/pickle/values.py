"""The names that a pickled module may use, and the inert values that they become.

A global is a name on a list of allowed names, and is never imported. An instance is a class name
with a dict. A tensor is a view of a storage that is still in the file. The list says what is
allowed, not what is forbidden, because protocol 2 has old names for modules (``builtins`` is
``__builtin__``, ``os`` is ``posix``), and a list of forbidden names would miss some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

import torch

MAX_ARGUMENTS: Final = 8
MAX_DIMENSIONS: Final = 8
MAX_STATE: Final = 16
MAX_COUNT: Final = 1 << 40


class UnsafePickleError(ValueError):
    """The pickle is refused; the message is one line and says why."""


def refuse(reason: str) -> NoReturn:
    """Raise :class:`UnsafePickleError` without the library error that may have led to it."""
    raise UnsafePickleError(reason) from None


# Why a file is refused that holds what most people save.
ONLY_WEIGHTS: Final = (
    "it holds weights alone (a state dict), not a whole module, which torch.save(model, …) writes"
)


def quoted(text: str) -> str:
    """Quote a name from a file, safe to print: escaped ASCII, at most 80 characters of it."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


@dataclass(frozen=True, slots=True)
class Global:
    """A global as the pickle names it, ``module name``; it is not looked up."""

    name: str


@dataclass(slots=True, eq=False)
class Instance:
    """An object of an allowed class: the class's name, and its attributes once they are set."""

    class_name: str
    state: dict[object, object] | None = None


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage that the pickle refers to by key; its bytes are elsewhere in the file."""

    key: str
    dtype: torch.dtype
    numel: int
    location: str

    @property
    def nbytes(self) -> int:
        """Size in the file, in bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class TensorView:
    """A tensor within ``storage``; offset, shape and stride count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PickledSet:
    """A set, kept as the list that it was pickled from, so that no item is hashed."""

    items: list[object]


_ROBERTA: Final = "transformers.models.roberta.modeling_roberta"
CONFIG_CLASS: Final = "transformers.models.roberta.configuration_roberta RobertaConfig"
ROOT_CLASS: Final = "utils.custom_model CustomModel"
DATA_PARALLEL_CLASS: Final = "torch.nn.parallel.data_parallel DataParallel"
MODULE_CLASSES: Final = frozenset(
    {
        ROOT_CLASS,
        DATA_PARALLEL_CLASS,
        "torch.nn.modules.activation GELU",
        "torch.nn.modules.activation ReLU",
        "torch.nn.modules.activation Softmax",
        "torch.nn.modules.activation Tanh",
        "torch.nn.modules.container ModuleList",
        "torch.nn.modules.container Sequential",
        "torch.nn.modules.dropout Dropout",
        "torch.nn.modules.linear Identity",
        "torch.nn.modules.linear Linear",
        "torch.nn.modules.normalization LayerNorm",
        "torch.nn.modules.sparse Embedding",
        "transformers.activations GELUActivation",
        f"{_ROBERTA} RobertaAttention",
        f"{_ROBERTA} RobertaEmbeddings",
        f"{_ROBERTA} RobertaEncoder",
        f"{_ROBERTA} RobertaIntermediate",
        f"{_ROBERTA} RobertaLayer",
        f"{_ROBERTA} RobertaModel",
        f"{_ROBERTA} RobertaOutput",
        f"{_ROBERTA} RobertaPooler",
        f"{_ROBERTA} RobertaSdpaSelfAttention",
        f"{_ROBERTA} RobertaSelfAttention",
        f"{_ROBERTA} RobertaSelfOutput",
    }
)
STORAGE_DTYPES: Final = {
    "torch BFloat16Storage": torch.bfloat16,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch LongStorage": torch.int64,
}
# Names that are only values: a configuration's dtype, an activation function, a tensor's type.
CONSTANTS: Final = frozenset(
    {"torch bfloat16", "torch float16", "torch float32", "torch Tensor", "torch._C._nn gelu"}
)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_COUNT


def _counts(value: object) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > MAX_DIMENSIONS or not all(map(_is_count, value)):
        refuse("a tensor's shape or stride is not a tuple of plausible counts")
    return value


def _is_plain_state(value: object) -> bool:
    """Say whether ``value`` is a tensor's Python attributes: a few names with plain values."""
    return (
        type(value) is dict
        and len(value) <= MAX_STATE
        and all(type(item) in (bool, int, str, type(None)) for item in value.values())
    )


def _is_empty_dict(value: object) -> bool:
    return type(value) is dict and not value


def _ordered_dict(args: tuple[object, ...]) -> object:
    if args:
        refuse("collections.OrderedDict is called with arguments")
    return {}


def _set(args: tuple[object, ...]) -> object:
    match args:
        case (list() as items,):
            return PickledSet(items)
    refuse("set is called with something other than one list")


def _device(args: tuple[object, ...]) -> object:
    match args:
        case (str(),) | (str(), int()):
            return args
    refuse("torch.device is called with something other than a name and an index")


def _rebuild_tensor(args: tuple[object, ...]) -> TensorView:
    """Do what ``torch._utils._rebuild_tensor_v2`` does.

    The view must be inside its storage, and its elements must not overlap. Metadata (the conjugate
    and negative bits) must be empty, since it would change the values.
    """
    match args:
        case (Storage() as storage, int() as offset, shape, stride, bool(), hooks, *metadata) if (
            _is_empty_dict(hooks)
            and all(item is None or _is_empty_dict(item) for item in metadata)
            and len(metadata) <= 1
        ):
            view = TensorView(storage, offset, _counts(shape), _counts(stride))
        case _:
            refuse("a tensor is rebuilt from the wrong kinds of arguments")
    if not _is_count(offset) or len(view.shape) != len(view.stride) or 0 in view.shape:
        refuse("a tensor has a bad offset, no elements, or not one stride for each dimension")
    last = 0
    # In order of stride, each dimension must step over everything that the smaller ones reach. If
    # elements could share an address, a small file could describe a huge tensor.
    for step, length in sorted(zip(view.stride, view.shape, strict=True)):
        if length > 1:
            if step <= last:
                refuse("a tensor's elements overlap")
            last += step * (length - 1)
    if offset + last >= storage.numel:
        refuse("a tensor reaches outside its storage")
    return view


def _rebuild_parameter(args: tuple[object, ...]) -> TensorView:
    match args:
        case (TensorView() as view, bool(), hooks) if _is_empty_dict(hooks):
            return view
    refuse("a parameter is rebuilt from the wrong kinds of arguments")


def _rebuild_parameter_with_state(args: tuple[object, ...]) -> TensorView:
    if not args or not _is_plain_state(args[-1]):
        refuse("a parameter carries attributes that are not plain values")
    return _rebuild_parameter(args[:-1])


def _rebuild_from_type(args: tuple[object, ...]) -> TensorView:
    """Do what ``torch._tensor._rebuild_from_type_v2`` does, for buffers' only type."""
    match args:
        case (
            Global("torch._utils _rebuild_tensor_v2"),
            Global("torch Tensor"),
            tuple() as inner,
            state,
        ) if len(inner) <= MAX_ARGUMENTS and _is_plain_state(state):
            return _rebuild_tensor(inner)
    refuse("a typed tensor is rebuilt from the wrong kinds of arguments")


_CALLABLES: Final[dict[str, Callable[[tuple[object, ...]], object]]] = {
    "__builtin__ set": _set,
    "collections OrderedDict": _ordered_dict,
    "torch device": _device,
    "torch._tensor _rebuild_from_type_v2": _rebuild_from_type,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch._utils _rebuild_parameter_with_state": _rebuild_parameter_with_state,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
}
ALLOWED_GLOBALS: Final = (
    MODULE_CLASSES | {CONFIG_CLASS} | STORAGE_DTYPES.keys() | CONSTANTS | _CALLABLES.keys()
)


def call(function: object, args: object) -> object:
    """Return what an allowed function would build from ``args``, as an inert value."""
    if not isinstance(function, Global) or function.name not in _CALLABLES:
        refuse("the pickle calls something that is not an allowed function")
    if type(args) is not tuple or len(args) > MAX_ARGUMENTS:
        refuse(f"{function.name.replace(' ', '.')} is called without a short tuple of arguments")
    return _CALLABLES[function.name](args)


def create(class_: object, args: object) -> Instance:
    """Return an empty :class:`Instance` of an allowed class, which takes no arguments."""
    if not isinstance(class_, Global) or (
        class_.name not in MODULE_CLASSES and class_.name != CONFIG_CLASS
    ):
        refuse("the pickle instantiates something that is not an allowed class")
    if args != ():
        refuse("an allowed class is instantiated with arguments")
    return Instance(class_.name)
