"""All that a run keeps in ``OUT.partial``, and how it becomes OUT: parts, notes, receipt, lock.

A part is a file with the scores of a chunk. It knows which chunk that is, the texts that were
scored, by their hash, and a checksum of all that is read from it. So a damaged part, one under
another's name, and scores of texts that have changed since are found before OUT appears.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from hatespeech.bulk import RunError
from hatespeech.bulk.engines.base import ScoredChunk
from hatespeech.bulk.places import Place
from hatespeech.bulk.plan import FORMAT, Plan
from hatespeech.contract import Versions
from hatespeech.formats.scores import SCORES, table_of
from hatespeech.locks import FolderHeldError, held_folder

log = logging.getLogger(__name__)

# Under this key a file keeps a JSON object of what :class:`KeptScores` has beside the table.
NOTE: Final = b"part"


class TextsHash:
    """The hash of texts; it is the same however they are cut into lists."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, texts: Sequence[Any]) -> None:
        """Add values of the text column; those that are not strings count by their JSON."""
        written = (
            f"{len(text)}:{text}" if isinstance(text, str) else f"!{json.dumps(text)}\n"
            for text in texts
        )
        self._hash.update("".join(written).encode("utf-8", "surrogatepass"))

    def hexdigest(self) -> str:
        """Return the hash of all texts so far."""
        return self._hash.hexdigest()


def hash_of(texts: Sequence[Any]) -> str:
    """Return the hash of a chunk's texts."""
    found = TextsHash()
    found.add(texts)
    return found.hexdigest()


@dataclass(frozen=True)
class KeptScores:
    """The content of a chunk's file."""

    scores: pa.Table  # with the columns of :data:`SCORES`
    model: str  # that gave the scores
    texts: str  # hash of the texts that were scored
    versions: Versions | None = None  # of what scored them
    dtype: str | None = None  # number format of its weights


class ScoreFiles:
    """A folder of scored chunks, named by their index; a file appears only when complete."""

    def __init__(self, folder: Place) -> None:
        self._folder = folder

    def make(self) -> None:
        """Make the folder."""
        self._folder.make_folder()

    def indices(self) -> set[int]:
        """Return the indices of the chunks that are there."""
        matches = (re.fullmatch(r"(\d{8,})\.parquet", name) for name in self._folder.names())
        return {int(match[1]) for match in matches if match}

    def write(self, chunk: ScoredChunk, texts: str) -> None:
        """Write a chunk's scores to its file; ``texts`` is the hash of its texts."""
        table = table_of(chunk.rows)
        part = KeptScores(table, chunk.model, texts, chunk.versions, chunk.dtype)
        note = {
            "model": part.model,
            "texts": texts,
            "versions": part.versions and dataclasses.asdict(part.versions),
            "dtype": part.dtype,
            "checksum": _checksum(chunk.index, part),
        }
        sink = pa.BufferOutputStream()
        pq.write_table(
            table.replace_schema_metadata({NOTE: json.dumps(note)}), sink, compression="zstd"
        )
        self._place(chunk.index).write(sink.getvalue().to_pybytes())

    def read(self, index: int) -> KeptScores:
        """Return a chunk's scores.

        Raises :class:`RunError` if the file is missing, is damaged, or is that of another chunk.
        """
        place = self._place(index)
        try:
            table = pq.read_table(pa.BufferReader(place.read()))
            note = json.loads(table.schema.metadata[NOTE])
            versions = note.get("versions") and Versions(**note["versions"])
            scores = table.replace_schema_metadata(None)
            part = KeptScores(scores, note["model"], note["texts"], versions, note.get("dtype"))
            checksum = note["checksum"]
        except _UNREADABLE:
            raise _unreadable(place) from None
        if part.scores.schema != SCORES or checksum != _checksum(index, part):
            raise RunError(f"{place}: has a wrong checksum; remove it and run again")
        return part

    def texts(self, index: int) -> str:
        """Return the hash of the texts that a chunk's scores are for; the scores stay unread.

        Raises :class:`RunError` if the file is missing or can't be read.
        """
        place = self._place(index)
        try:
            with place.fs.open(place.path, "rb") as file:
                texts: str = json.loads(pq.read_metadata(file).metadata[NOTE])["texts"]
        except _UNREADABLE:
            raise _unreadable(place) from None
        return texts

    def _place(self, index: int) -> Place:
        return self._folder / f"{index:08}.parquet"


# What reading a file raises whose bytes have changed.
_UNREADABLE: Final = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)


def _unreadable(place: Place) -> RunError:
    return RunError(f"{place}: can't be read; remove it and run again")


def _checksum(index: int, part: KeptScores) -> str:
    """Return the hash of all that is read from a file, as CSV: equal values give equal bytes."""
    versions = dataclasses.astuple(part.versions) if part.versions else ()
    dtype = [part.dtype] if part.dtype else []  # parts of earlier versions do not have it
    head = json.dumps([index, part.model, part.texts, len(part.scores), *versions, *dtype])
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(part.scores, sink)
    return hashlib.sha256(head.encode() + sink.getvalue()).hexdigest()


class ScoreReader:
    """All scores of a run, in the order of its rows; ``chunks`` are the indices of its chunks."""

    def __init__(self, files: ScoreFiles, chunks: Iterable[int]) -> None:
        self.model: str | None = None
        self.versions: Versions | None = None  # of what scored the first part
        self._dtype: str | None = None
        self._files = files
        self._parts = self._read(chunks)
        self._rest = SCORES.empty_table()  # of the part that is being taken
        self._wanted = ""  # hash of its texts
        self._hash = TextsHash()

    def take(self, texts: Sequence[Any]) -> pa.Table:
        """Return the scores of the next rows; ``texts`` are their texts, as they are now.

        Raises :class:`RunError` if these are not the texts that were scored.
        """
        taken: list[pa.Table] = []
        done = 0
        while done < len(texts):
            if not len(self._rest):
                part = next(self._parts, None)
                if part is None:
                    raise RunError("there are fewer scores than rows: has the input changed?")
                self._rest, self._wanted, self._hash = part.scores, part.texts, TextsHash()
            found: Any = self._rest.slice(0, len(texts) - done)
            self._hash.add(texts[done : done + len(found)])
            self._rest = self._rest.slice(len(found))
            if not len(self._rest) and self._hash.hexdigest() != self._wanted:
                raise RunError("a text is not the one that was scored: has the input changed?")
            taken.append(found)
            done += len(found)
        return pa.concat_tables(taken) if taken else SCORES.empty_table()

    def end(self) -> None:
        """Raise :class:`RunError` if scores are left."""
        if len(self._rest) or next(self._parts, None) is not None:
            raise RunError("there are more scores than rows: has the input changed?")

    def _read(self, chunks: Iterable[int]) -> Iterator[KeptScores]:
        for index in chunks:
            part = self._files.read(index)
            self.model = self.model or part.model
            self.versions = self.versions or part.versions
            require_model(part.model, self.model)
            self._dtype = self._dtype or part.dtype
            require_dtype(part.dtype, self._dtype)
            yield part


def require_model(model: str, kept: str | None) -> None:
    """Raise :class:`RunError` if ``model`` is not the one whose scores are ``kept``."""
    if kept is not None and model != kept:
        raise RunError(
            f"some parts were scored by {kept}, but this engine is {model}: run again with "
            f"{kept}, or remove the .partial folder"
        )


def require_dtype(dtype: str | None, kept: str | None) -> None:
    """Raise :class:`RunError` if scores are ``kept`` that another number format gave.

    ``DTYPE=auto`` is float16 on a GPU and float32 on a CPU. ``None`` stands for unknown.
    """
    if None not in (dtype, kept) and dtype != kept:
        raise RunError(
            f"some parts were scored in {kept}, but this engine scores in {dtype}: run again on "
            "the kind of device that scored them, or remove the .partial folder"
        )


def receipt_of(plan: Plan) -> dict[str, Any] | None:
    """Return the receipt of OUT if this very run made it, ``None`` if there is no OUT.

    Raises :class:`RunError` if OUT is anything else.
    """
    if not plan.out.exists():
        return None
    receipt = read_json_object(plan.receipt)
    made_by = receipt and receipt.get("run")
    if isinstance(made_by, dict):
        made_by["format"] = FORMAT  # that of OUT.partial; OUT is the same whichever it was
    if receipt is None or made_by != plan.fingerprint():
        raise RunError(
            f"{plan.out}: already exists, and was not made from this input with these options; "
            "remove it or choose another name"
        )
    return receipt


def read_json_object(place: Place) -> dict[str, Any] | None:
    """Return the JSON object in a file, ``None`` if there is no file or no object in it."""
    try:
        value = json.loads(place.read())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@contextlib.contextmanager
def locked(folder: Place) -> Iterator[None]:
    """Hold a folder for this process alone; the lock ends with the process, even if killed.

    Raises :class:`RunError` if another process holds it. An object store has no such lock: there
    this does nothing.
    """
    if not folder.is_local:
        yield
        return
    try:
        with held_folder(Path(folder.path)):
            yield
    except FolderHeldError:
        raise RunError(f"{folder}: another run is writing there") from None


def finish(plan: Plan) -> None:
    """Give OUT its name, unless it has it, and remove OUT.partial."""
    output = plan.partial / "output"
    made = output if plan.outputs[0].name else output / plan.out.name
    if output.exists() and made.exists():
        try:
            made.move(plan.out)
        except FileExistsError:
            plan.receipt.remove_file()  # that OUT is not of this run
            raise appeared(plan) from None
    try:
        plan.partial.remove()
    except OSError as exc:  # NFS keeps open files, such as the lock
        log.warning("%s can't be removed: %s", plan.partial, exc.strerror or type(exc).__name__)


def appeared(plan: Plan) -> RunError:
    """Return the error for an OUT that another program has made since the run began."""
    return RunError(
        f"{plan.out}: appeared during the run, and was not made by it; move it away and run again"
    )


def require_same_options(plan: Plan, begun: Mapping[str, Any]) -> None:
    """Raise :class:`RunError` unless a plan has the options of the run that was begun."""
    if begun["run"].get("format") != FORMAT:
        raise RunError(
            f"{plan.partial}: was begun by another version of this command, and can't be resumed "
            "by this one; finish it with that version, or remove it to start over"
        )
    keys = [key for key in {**plan.fixed, **begun["run"]} if key != "inputs"]
    other = [key for key in keys if begun["run"].get(key) != plan.fixed.get(key)]
    if other:
        raise other_run(plan, f"with another {', '.join(other)}")


def other_run(plan: Plan, what: str) -> RunError:
    """Return the error for a command other than the one that was interrupted."""
    return RunError(
        f"{plan.partial}: holds a run {what}; repeat its command, or remove it to start over"
    )
