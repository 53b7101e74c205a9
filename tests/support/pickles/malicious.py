"""Pickles that an attacker would write, spelt in opcodes.

`LIVE` fire when an ordinary unpickler loads them: each makes the file whose path it is given.
The others would lead an unpickler astray that trusts names, arguments or attributes.
"""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

from tests.support.pickles.torch_files import legacy_header

PROTO = b"\x80\x02"
EMPTY_TUPLE, EMPTY_DICT, EMPTY_LIST, NONE, TRUE = b")", b"}", b"]", b"N", b"\x88"
REDUCE, NEWOBJ, BUILD = b"R", b"\x81", b"b"

FLOAT_STORAGE = ("torch", "FloatStorage")
TENSOR = ("torch._utils", "_rebuild_tensor_v2")
PARAMETER = ("torch._utils", "_rebuild_parameter")
LINEAR = ("torch.nn.modules.linear", "Linear")


def name(module: str, qualified: str) -> bytes:
    return b"c" + module.encode() + b"\n" + qualified.encode() + b"\n"


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def numbers(*values: int) -> bytes:
    return tuple_(*map(number, values))


def tuple_(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def dict_(*parts: bytes) -> bytes:
    return b"}(" + b"".join(parts) + b"u"


def call(module: str, function: str, *args: bytes) -> bytes:
    return name(module, function) + tuple_(*args) + REDUCE


def hooks() -> bytes:
    return call("collections", "OrderedDict")


def storage(numel: int = 16, key: str = "900", kind: tuple[str, str] = FLOAT_STORAGE) -> bytes:
    return tuple_(text("storage"), name(*kind), text(key), text("cpu"), number(numel)) + b"Q"


def tensor(offset: bytes, shape: bytes, stride: bytes, *rest: bytes, source: bytes = b"") -> bytes:
    """A tensor of a storage of 16 floats; `rest` is what follows the strides."""
    return call(*TENSOR, source or storage(), offset, shape, stride, *(rest or (TRUE, hooks())))


def _command(marker: Path) -> bytes:
    return text(f"touch {marker}")


def _python(marker: Path) -> bytes:
    return text(f"open({str(marker)!r}, 'w').close()")


def _nested(marker: Path) -> bytes:
    """Bytes that are themselves a file of torch.save, as protocol 2 spells bytes."""
    inner = b"".join(legacy_header()) + PROTO + call("posix", "system", _command(marker)) + b"."
    return call("_codecs", "encode", text(inner.decode("latin-1")), text("latin-1"))


LIVE: dict[str, Callable[[Path], bytes]] = {
    "posix.system": lambda marker: call("posix", "system", _command(marker)),
    "os.system": lambda marker: call("os", "system", _command(marker)),
    "commands.getoutput": lambda marker: call("commands", "getoutput", _command(marker)),
    "subprocess.check_call": lambda marker: call(
        "subprocess", "check_call", tuple_(text("touch"), text(str(marker)))
    ),
    "__builtin__.eval": lambda marker: call("__builtin__", "eval", _python(marker)),
    "__builtin__.exec": lambda marker: call("__builtin__", "exec", _python(marker)),
    "builtins.exec": lambda marker: call("builtins", "exec", _python(marker)),
    "runpy._run_code": lambda marker: call("runpy", "_run_code", _python(marker), EMPTY_DICT),
    "getattr chain": lambda marker: (
        call(
            "__builtin__", "getattr", call("importlib", "import_module", text("os")), text("system")
        )
        + tuple_(_command(marker))
        + REDUCE
    ),
    "functools.partial": lambda marker: (
        call("functools", "partial", name("posix", "system"), _command(marker))
        + EMPTY_TUPLE
        + REDUCE
    ),
    "operator.methodcaller": lambda marker: (
        call("operator", "methodcaller", text("system"), _command(marker))
        + tuple_(call("importlib", "import_module", text("os")))
        + REDUCE
    ),
    "torch.storage._load_from_bytes": lambda marker: call(
        "torch.storage", "_load_from_bytes", _nested(marker)
    ),
    "ordered dict of a call": lambda marker: call(
        "collections",
        "OrderedDict",
        b"](" + b"](" + text("x") + call("posix", "system", _command(marker)) + b"e" + b"e",
    ),
    "set of a call": lambda marker: call(
        "__builtin__", "set", b"](" + call("posix", "system", _command(marker)) + b"e"
    ),
    "map under a set": lambda marker: call(
        "__builtin__",
        "set",
        call("__builtin__", "map", name("posix", "system"), b"](" + _command(marker) + b"e"),
    ),
    "inst": lambda marker: b"(" + _command(marker) + b"iposix\nsystem\n",
    "obj": lambda marker: b"(" + name("posix", "system") + _command(marker) + b"o",
    "stack global": lambda marker: (
        text("posix") + text("system") + b"\x93" + tuple_(_command(marker)) + REDUCE
    ),
    "dotted stack global": lambda marker: (
        b"\x80\x04"
        + text("logging")
        + text("os.system")
        + b"\x93"
        + tuple_(_command(marker))
        + REDUCE
    ),
    "build with a call": lambda marker: (
        name("collections", "UserDict")
        + EMPTY_TUPLE
        + NEWOBJ
        + dict_(text("data"), call("posix", "system", _command(marker)))
        + BUILD
    ),
    "key of a call": lambda marker: dict_(call("posix", "system", _command(marker)), NONE),
    "popped call": lambda marker: NONE + call("posix", "system", _command(marker)) + b"0",
}

# Names that have served attackers, each called without an argument.
NAMES = (
    ("nt", "system"),
    ("pty", "spawn"),
    ("socket", "socket"),
    ("webbrowser", "open"),
    ("shutil", "rmtree"),
    ("copyreg", "_reconstructor"),
    ("copy_reg", "_reconstructor"),
    ("_codecs", "encode"),
    ("__builtin__", "bytearray"),
    ("__builtin__", "getattr"),
    ("builtins", "set"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.testing._private.utils", "runstring"),
    ("torch.storage", "_load_from_bytes"),
    ("torch.serialization", "load"),
    ("torch", "load"),
    ("torch.hub", "load"),
    ("torch.jit", "load"),
    ("torch", "FloatTensor"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_sparse_tensor"),
    ("torch._utils", "_import_dotted_name"),
    ("torch._dynamo.guards", "eval"),
    ("torch.nn.modules.linear", "Linear.forward"),
    ("torch.nn.modules.linear", "Linear.forward.__globals__"),
    ("torch.nn.modules.module", "Module"),
    ("torch.nn.modules", "linear.Linear"),
    ("transformers.models.roberta.modeling_roberta", "torch.load"),
    ("transformers", "AutoModel"),
    ("utils.custom_model", "CustomModel.__init__"),
    ("hatespeech.fetching.pickle.module", "UnpickledModule"),
    ("utils", "custom_model.CustomModel"),
    ("collections", "OrderedDict\x00"),
    ("collections ", "OrderedDict"),
    ("", "collections OrderedDict"),
    ("torch FloatStorage", ""),
)

# Allowed names and opcodes used for what they are not: reason for the refusal -> case -> opcodes.
_LINEAR = name(*LINEAR) + EMPTY_TUPLE + NEWOBJ
_VIEW = tensor(number(0), numbers(4), numbers(1))
_WITH_STATE = ("torch._utils", "_rebuild_parameter_with_state")
_TYPED = ("torch._tensor", "_rebuild_from_type_v2")
_VIEW_ARGUMENTS = tuple_(storage(), number(0), numbers(4), numbers(1), TRUE, hooks())
MISUSED: dict[str, dict[str, bytes]] = {
    "calls something that is not an allowed function": {
        "class called": call(*LINEAR),
        "class called with arguments": call(*LINEAR, number(4), number(4)),
        "activation called": call("torch._C._nn", "gelu", NONE),
        "dtype called": call("torch", "float32"),
        "storage class called": call(*FLOAT_STORAGE, number(1 << 33)),
        "tensor class called": call("torch", "Tensor", number(1 << 33)),
        "number called": number(1) + EMPTY_TUPLE + REDUCE,
        "result called": hooks() + EMPTY_TUPLE + REDUCE,
    },
    "without a short tuple of arguments": {
        "arguments in a list": name("collections", "OrderedDict") + EMPTY_LIST + REDUCE,
        "many arguments": call("torch", "device", *[NONE] * 9),
    },
    "instantiates something that is not an allowed class": {
        "function instantiated": name(*TENSOR) + EMPTY_TUPLE + NEWOBJ,
        "storage instantiated": name(*FLOAT_STORAGE) + EMPTY_TUPLE + NEWOBJ,
        "instance instantiated": _LINEAR + EMPTY_TUPLE + NEWOBJ,
    },
    "class is instantiated with arguments": {
        "class with arguments": name(*LINEAR) + numbers(4, 4) + NEWOBJ,
    },
    "OrderedDict is called with arguments": {
        "ordered dict of a list": call("collections", "OrderedDict", EMPTY_LIST),
    },
    "set is called with something other": {
        "set of a dict": call("__builtin__", "set", EMPTY_DICT),
        "set of two": call("__builtin__", "set", EMPTY_LIST, EMPTY_LIST),
    },
    "device is called with something other": {
        "device of a class": call("torch", "device", name(*LINEAR)),
    },
    "state of something other than a new object": {
        "class built": name(*LINEAR) + dict_(text("forward"), NONE) + BUILD,
        "dict built": EMPTY_DICT + dict_(text("__class__"), NONE) + BUILD,
        "built twice": _LINEAR + EMPTY_DICT + BUILD + EMPTY_DICT + BUILD,
    },
    "state is not a dict": {
        "state and slots": _LINEAR + tuple_(NONE, EMPTY_DICT) + BUILD,
    },
    "parameter is rebuilt from the wrong kinds": {
        "parameter of a number": call(*PARAMETER, number(1), TRUE, hooks()),
        "parameter of a class": call(*PARAMETER, name(*LINEAR), TRUE, hooks()),
        "parameter with hooks": call(
            *PARAMETER, _VIEW, TRUE, dict_(number(0), name("torch._C._nn", "gelu"))
        ),
        "parameter with an object for hooks": call(*PARAMETER, _VIEW, TRUE, _LINEAR),
        "parameter of a number, with state": call(
            *_WITH_STATE, number(1), TRUE, hooks(), EMPTY_DICT
        ),
    },
    "parameter carries attributes that are not plain": {
        "parameter with objects in its state": call(
            *_WITH_STATE, _VIEW, TRUE, hooks(), dict_(text("__class__"), name(*LINEAR))
        ),
        "parameter with a tuple for state": call(
            *_WITH_STATE, _VIEW, TRUE, hooks(), tuple_(NONE, EMPTY_DICT)
        ),
        "parameter without arguments": call(*_WITH_STATE),
    },
    "typed tensor is rebuilt from the wrong kinds": {
        "typed tensor of another function": call(
            *_TYPED, name(*PARAMETER), name("torch", "Tensor"), _VIEW_ARGUMENTS, EMPTY_DICT
        ),
        "typed tensor of another type": call(
            *_TYPED, name(*TENSOR), name(*LINEAR), _VIEW_ARGUMENTS, EMPTY_DICT
        ),
        "typed tensor with objects in its state": call(
            *_TYPED,
            name(*TENSOR),
            name("torch", "Tensor"),
            _VIEW_ARGUMENTS,
            dict_(text("x"), EMPTY_LIST),
        ),
    },
    "tensor is rebuilt from the wrong kinds": {
        "tensor of a dict": tensor(number(0), numbers(4), numbers(1), source=EMPTY_DICT),
        "tensor with hooks": tensor(
            number(0), numbers(4), numbers(1), TRUE, dict_(number(0), name(*TENSOR))
        ),
        "tensor with metadata": tensor(
            number(0), numbers(4), numbers(1), TRUE, hooks(), dict_(text("neg"), TRUE)
        ),
        "tensor at a float": tensor(b"G" + b"\0" * 8, numbers(4), numbers(1)),
    },
    "appends to something that is not a list": {
        "append to a tuple": EMPTY_TUPLE + number(1) + b"a",
    },
    "items of something that is not a dict": {
        "item of a list": EMPTY_LIST + number(0) + NONE + b"s",
        "odd number of items": dict_(text("x")),
    },
    "key is neither a string nor a small integer": {
        "key that is a tuple": dict_(EMPTY_TUPLE, NONE),
        "key that is a list": dict_(EMPTY_LIST, NONE),
        "key that is a large integer": dict_(number(2**61 - 1), NONE),
        "key that is true": dict_(TRUE, NONE),
        "key whose hash takes for ever": dict_(
            EMPTY_TUPLE + b"q\x00" + b"h\x00\x86q\x00" * 60, NONE
        ),
    },
    "key is set twice": {
        "key set twice": dict_(text("x"), NONE, text("x"), NONE),
    },
    "memo entry beyond its opcodes": {
        "memo index of two billion": NONE + b"r" + struct.pack("<I", 1 << 31),
    },
    "oversized integer": {
        "large integer": number(1 << 200),
    },
    "pickle is damaged": {
        "memo entry never set": b"j" + struct.pack("<I", 1 << 20),
        "text longer than the file": b"X" + struct.pack("<I", (1 << 32) - 1),
        "invalid UTF-8": b"X\x01\x00\x00\x00\xff",
        "tuple without its mark": NONE + b"t" * 80,
        "reduce of an empty stack": b"(" + REDUCE,
        "tuple of an empty stack": b"(\x87",
    },
    "opcode that is not allowed": {
        "long of four-byte length": b"\x8b" + struct.pack("<i", 1 << 30),
        "text of eight-byte length": b"\x8d" + struct.pack("<Q", 1 << 62),
        "bytes longer than the file": b"B" + struct.pack("<I", (1 << 32) - 1),
        "bytearray longer than the file": b"\x96" + struct.pack("<Q", 1 << 62),
        "frame": b"\x95" + struct.pack("<Q", 1 << 62),
        "extension": b"\x82\x01",
        "persistent id in text": b"Pstorage\n",
        "no opcode at all": b"\xff",
    },
    "does not start with its protocol": {
        "second protocol": PROTO + NONE,
    },
    "persistent id of a wrong shape": {
        "string": text("storage") + b"Q",
        "list": b"]("
        + text("storage")
        + name(*FLOAT_STORAGE)
        + text("900")
        + text("cpu")
        + number(16)
        + b"eQ",
        "short": tuple_(text("storage")) + b"Q",
        "legacy class": tuple_(text("module"), name(*LINEAR), NONE, NONE) + b"Q",
        "type by name": tuple_(
            text("storage"), text("FloatStorage"), text("900"), text("cpu"), number(1)
        )
        + b"Q",
    },
    "type is not a storage class": {
        "storage of a class": storage(kind=LINEAR),
    },
    "key or location is malformed": {
        "path for a key": storage(key="../../etc/passwd"),
        "empty key": storage(key=""),
        "unknown device": tuple_(
            text("storage"), name(*FLOAT_STORAGE), text("900"), text("cpu; rm"), number(1)
        )
        + b"Q",
    },
    "number of elements is not a plausible count": {
        "no elements": storage(0),
        "negative size": storage(-1),
        "huge size": storage(1 << 62),
        "size of true": tuple_(
            text("storage"), name(*FLOAT_STORAGE), text("900"), text("cpu"), TRUE
        )
        + b"Q",
    },
    "differ in type, size or location": {
        "two sizes": tuple_(storage(16), storage(17)),
        "two types": tuple_(storage(), storage(kind=("torch", "LongStorage"))),
    },
    # Views of 16 elements that are outside, not one-to-one, or not made of counts.
    "reaches outside its storage": {
        "offset past the end": tensor(number(13), numbers(4), numbers(1)),
        "shape past the end": tensor(number(0), numbers(17), numbers(1)),
        "shape that overflows": tensor(number(0), numbers(1 << 32, 1 << 32), numbers(1 << 32, 1)),
        "stride past the end": tensor(number(0), numbers(4), numbers(6)),
    },
    "bad offset, no elements, or not one stride": {
        "negative offset": tensor(number(-1), numbers(4), numbers(1)),
        "offset of true": tensor(TRUE, numbers(4), numbers(1)),
        "empty shape": tensor(number(0), numbers(0), numbers(1)),
        "too few strides": tensor(number(0), numbers(2, 2), numbers(1)),
    },
    "not a tuple of plausible counts": {
        "shape of 2**63": tensor(number(0), numbers(1 << 63), numbers(1)),
        "negative shape": tensor(number(0), numbers(-4), numbers(1)),
        "shape in a list": tensor(number(0), EMPTY_LIST, numbers(1)),
        "shape of text": tensor(number(0), tuple_(text("4")), numbers(1)),
        "nine dimensions": tensor(number(0), numbers(*[1] * 9), numbers(*[1] * 9)),
        "negative stride": tensor(number(15), numbers(4), numbers(-1)),
        "huge stride": tensor(number(0), numbers(2), numbers(1 << 62)),
    },
    "elements overlap": {
        "stride of zero": tensor(number(0), numbers(1 << 20), numbers(0)),
        "strides of zero": tensor(number(0), numbers(1 << 20, 1 << 20), numbers(0, 0)),
        "equal strides": tensor(number(0), numbers(3, 3), numbers(1, 1)),
        "interleaved strides": tensor(number(0), numbers(2, 5), numbers(3, 1)),
    },
    "nested too deeply, or unfolds into too much": {
        "rather deep tuples": EMPTY_TUPLE + b"\x85" * 60,
        "deep tuples": EMPTY_TUPLE + b"\x85" * 100_000,
        "deep lists": EMPTY_LIST * 90_000 + b"a" * 89_999,
        "deep dicts": b"}X\x01\x00\x00\x00x" * 60_000 + NONE + b"s" * 60_000,
        "deep marks": b"(" * 90_000 + b"t" * 90_000,
    },
}

# Whole pickles, small or not, that ask for much; the same grouping.
BOMBS: dict[str, dict[str, bytes]] = {
    "nested too deeply, or unfolds into too much": {
        "shared lists": tuple_(EMPTY_LIST + b"q\x00" + b"](h\x00h\x00eq\x00" * 60),
        "shared tuples": EMPTY_TUPLE + b"q\x00" + b"h\x00\x86q\x00" * 60,
        "a set many times": b"(]("
        + number(1) * 1000
        + b"eq\x00"
        + (name("__builtin__", "set") + b"h\x00\x85R") * 30_000
        + b"t",
    },
    "contains itself": {
        "a list in itself": EMPTY_LIST + b"q\x00h\x00a",
        "a dict in itself": EMPTY_DICT + b"q\x00" + text("x") + b"h\x00s",
        "a module in itself": _LINEAR + b"q\x00" + dict_(text("x"), b"h\x00") + BUILD,
        "a tuple in its list": EMPTY_LIST + b"q\x00h\x00\x85a",
    },
    "holds more than 200000 opcodes": {
        "many dicts": tuple_(EMPTY_DICT * 1_000_000),
        "many memo entries": NONE + b"".join(b"r" + struct.pack("<I", n) for n in range(300_000)),
    },
    "key is neither a string nor a small integer": {
        "many colliding keys": dict_(*(number(n * (2**61 - 1)) + NONE for n in range(1, 50_000))),
    },
    "pickle is larger than": {
        "a large pickle": text("x" * (5 << 20)),
    },
}
