"""Reads one pickle as data: interprets the thirty opcodes that a pickled module needs.

It imports nothing, calls nothing and sets no attribute of a real object: opcodes that do so are
refused, or work on the inert values of ``values``. It has limits of its own, while Python's
unpickler reserves memory for any memo index or length that a file claims.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final, Literal

from hatespeech.fetching.pickle.values import (
    ALLOWED_GLOBALS,
    MAX_COUNT,
    MODULE_CLASSES,
    ONLY_WEIGHTS,
    STORAGE_DTYPES,
    Global,
    Instance,
    PickledSet,
    Storage,
    UnsafePickleError,
    call,
    create,
    quoted,
    refuse,
)

# A module of 24 layers has up to 64,000 opcodes (the published one, written by torch 1.11, has
# 45,000), 150 kB, a depth of 28 and 12,000 values.
MAX_PICKLE_BYTES: Final = 4 << 20
MAX_OPCODES: Final = 200_000
MAX_DEPTH: Final = 64
MAX_UNFOLDED: Final = 100_000
MAX_KEY: Final = 1 << 31
MAX_INT: Final = 1 << 127

_STORAGE_KEY: Final = re.compile(r"[0-9]{1,20}")
_LOCATION: Final = re.compile(r"[a-z]{1,16}(:[0-9]{1,3})?")

Container = Literal["plain", "zip", "legacy"]

_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS: Final = frozenset({"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE"})
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS: Final = frozenset({"BINPUT", "LONG_BINPUT"})
_GETS: Final = frozenset({"BINGET", "LONG_BINGET"})
_OTHERS: Final = frozenset(
    {
        "MARK",
        "TUPLE",
        "EMPTY_LIST",
        "APPEND",
        "APPENDS",
        "EMPTY_DICT",
        "SETITEM",
        "SETITEMS",
        "GLOBAL",
        "REDUCE",
        "NEWOBJ",
        "BUILD",
        "BINPERSID",
        "LONG1",
        "PROTO",
        "STOP",
    }
)
_ALLOWED: Final = _CONSTANTS.keys() | _LITERALS | _TUPLES.keys() | _PUTS | _GETS | _OTHERS
_OPCODES: Final = {
    op.code.encode("latin-1"): op for op in pickletools.opcodes if op.name in _ALLOWED
}
_NAMES: Final = {op.code.encode("latin-1"): op.name for op in pickletools.opcodes}


@dataclass(frozen=True, slots=True)
class Pickle:
    """One pickle: its value, and the storages that the value refers to, by key."""

    value: object
    storages: dict[str, Storage]


def read_pickle(stream: BytesIO, container: Container = "plain") -> Pickle:
    """Read one pickle from the stream's position, and leave the stream right after it.

    ``container`` says which persistent ids may occur: those of torch's zip format, those of its
    legacy format, or none, and no globals either (``plain``). The value is a tree of bounded size
    and depth, with shared parts counted each time they occur, so it is safe to walk.

    Raises :class:`UnsafePickleError`.
    """
    machine = _Machine(stream, container)
    try:
        value = machine.run()
    except UnsafePickleError:
        raise
    except (ValueError, IndexError, KeyError):
        # From pickletools' readers, an empty stack, or a memo entry that was never set.
        refuse("the pickle is damaged")
    _check_tree(value)
    return Pickle(value, machine.storages)


@dataclass(slots=True)
class _Machine:
    stream: BytesIO
    container: Container
    stack: list[object] = field(default_factory=list)
    marked: list[list[object]] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)

    def run(self) -> object:
        for count in range(MAX_OPCODES):
            code = self.stream.read(1)
            if (op := _OPCODES.get(code)) is None:
                name = _NAMES.get(code, "an unknown byte") if code else "the end of the data"
                refuse(f"the pickle holds an opcode that is not allowed: {name}")
            if (op.name == "PROTO") != (count == 0):
                refuse("the pickle does not start with its protocol")
            arg = None if op.arg is None else op.arg.reader(self.stream)
            if op.name == "STOP":
                if len(self.stack) != 1 or self.marked:
                    refuse("the pickle does not end with exactly one value")
                return self.stack[0]
            self.step(op.name, arg, count)
        raise UnsafePickleError(f"the pickle holds more than {MAX_OPCODES} opcodes")

    def step(self, name: str, arg: Any, count: int) -> None:
        stack = self.stack
        if name in _PUTS:
            if arg > count:
                refuse("the pickle numbers a memo entry beyond its opcodes")
            self.memo[arg] = stack[-1]
        elif name in _GETS:
            stack.append(self.memo[arg])
        elif name in _LITERALS:
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            length = _TUPLES[name]
            if len(stack) < length:
                refuse("the pickle is damaged")
            stack[-length:] = [tuple(stack[-length:])]
        else:
            self.build(name, arg)

    def build(self, name: str, arg: Any) -> None:
        stack = self.stack
        match name:
            case "MARK":
                self.marked.append(stack)
                self.stack = []
            case "TUPLE":
                items = self.pop_mark()
                self.stack.append(tuple(items))
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "SETITEMS":
                items = self.pop_mark()
                self.set_items(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.set_items([key, value])
            case "APPENDS":
                items = self.pop_mark()
                self.append(items)
            case "APPEND":
                self.append([stack.pop()])
            case "GLOBAL":
                stack.append(self.name_global(arg))
            case "REDUCE":
                args, function = stack.pop(), stack.pop()
                stack.append(call(function, args))
            case "NEWOBJ":
                args, class_ = stack.pop(), stack.pop()
                stack.append(create(class_, args))
            case "BUILD":
                state, target = stack.pop(), stack[-1]
                if type(target) is dict and type(state) is dict and "_metadata" in state:
                    refuse(ONLY_WEIGHTS)
                if not isinstance(target, Instance) or target.state is not None:
                    refuse("the pickle sets the state of something other than a new object")
                if type(state) is not dict:
                    refuse("an object's state is not a dict")
                target.state = state
            case "BINPERSID":
                stack.append(self.resolve(stack.pop()))
            case "LONG1":
                if not -MAX_INT <= arg < MAX_INT:
                    refuse("the pickle holds an oversized integer")
                stack.append(arg)
            case "PROTO":
                if arg != 2:
                    refuse("the pickle does not have protocol 2, which torch writes")

    def pop_mark(self) -> list[object]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def append(self, items: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            refuse("the pickle appends to something that is not a list")
        target.extend(items)

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            refuse("the pickle sets items of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a nested tuple can take forever, and large integers can be made to collide.
            if not (type(key) is str or (type(key) is int and abs(key) < MAX_KEY)):
                refuse("a dict's key is neither a string nor a small integer")
            if key in target:
                refuse("a dict's key is set twice")
            target[key] = value

    def name_global(self, name: str) -> Global:
        if self.container == "plain" or name not in ALLOWED_GLOBALS:
            refuse(f"the pickle names a global that is not allowed: {quoted(name)}")
        return Global(name)

    def resolve(self, persistent_id: object) -> object:
        """Return what a persistent id refers to: a storage or, in the legacy format, a class."""
        if type(persistent_id) is not tuple:
            refuse("the pickle holds a persistent id of a wrong shape")
        match self.container, persistent_id:
            case ("zip", ("storage", Global() as type_, str() as key, str() as location, numel)):
                return self.storage(type_.name, key, location, numel)
            case (
                "legacy",
                ("storage", Global() as type_, str() as key, str() as location, numel, None),
            ):
                return self.storage(type_.name, key, location, numel)
            case ("legacy", ("module", Global() as class_, None | str(), None | str())) if (
                class_.name in MODULE_CLASSES
            ):
                return class_
        raise UnsafePickleError("the pickle holds a persistent id of a wrong shape")

    def storage(self, type_name: str, key: str, location: str, numel: object) -> Storage:
        if type_name not in STORAGE_DTYPES:
            refuse("a storage's type is not a storage class")
        if not _STORAGE_KEY.fullmatch(key) or not _LOCATION.fullmatch(location):
            refuse("a storage's key or location is malformed")
        if type(numel) is not int or not 0 < numel < MAX_COUNT:
            refuse("a storage's number of elements is not a plausible count")
        storage = Storage(key, STORAGE_DTYPES[type_name], numel, location)
        if self.storages.setdefault(key, storage) != storage:
            refuse("two references to a storage differ in type, size or location")
        return storage


def _children(value: object) -> Collection[object] | None:
    """Return what a container holds, or None for anything else."""
    match value:
        case dict():
            return value.values()
        case list() | tuple():
            return value
        case PickledSet(items=items):
            return (items,)
        case Instance(state=state):
            return (state,)
    return None


def _check_tree(root: object) -> None:
    """Refuse cycles, deep nesting, and sharing that would unfold into a huge tree.

    Walks in post-order without recursion, and visits each shared part once.
    """
    leaf = (1, 1)
    measured: dict[int, tuple[int, int]] = {}  # id -> (unfolded size, depth)
    entered: set[int] = set()
    pending: list[tuple[object, bool]] = [(root, False)]
    while pending:
        value, leaving = pending.pop()
        children = _children(value)
        if children is None or id(value) in measured:
            continue
        if leaving:
            parts = [measured.get(id(child), leaf) for child in children]
            size = 1 + sum(part[0] for part in parts)
            depth = 1 + max((part[1] for part in parts), default=0)
            if size > MAX_UNFOLDED or depth > MAX_DEPTH:
                refuse("the pickle's value is nested too deeply, or unfolds into too much")
            measured[id(value)] = (size, depth)
            entered.discard(id(value))
        elif id(value) in entered:
            refuse("the pickle's value contains itself")
        else:
            entered.add(id(value))
            pending.append((value, True))
            pending.extend((child, False) for child in children)
