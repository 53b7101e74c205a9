"""The last stage of a run: writes the rows unchanged, with their scores beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import BinaryIO, cast

import pyarrow as pa

from hatespeech.bars import progress_bar
from hatespeech.bulk.places import Place
from hatespeech.bulk.plan import Output, Plan, changed
from hatespeech.bulk.statistics import ScoredBlock, Statistics
from hatespeech.bulk.workspace import ScoreReader
from hatespeech.bulk.written_rows import texts_in
from hatespeech.formats.choice import WRITERS
from hatespeech.formats.conversion import Conversion
from hatespeech.formats.interface import Block, Head, Writer
from hatespeech.formats.packing_codecs import packed
from hatespeech.formats.scores import made_by, with_flags, with_model


def write_outputs(
    plan: Plan,
    conversions: Sequence[Conversion],
    rows: Sequence[int],
    reader: ScoreReader,
    folder: Place,
) -> Statistics:
    """Read all inputs, and write all outputs; see :class:`Outputs`."""
    outputs = Outputs(plan, conversions, rows, reader, folder)
    with contextlib.closing(outputs), progress_bar("writing", sum(rows), "rows") as shown:
        for conversion in conversions:
            for table in conversion.tables:
                for block in table.blocks():
                    outputs.send(block)
                    shown.update(len(block.texts))
                outputs.send(None)
    return outputs.statistics


class Outputs:
    """All outputs of a run, written into a folder, rows and scores side by side.

    ``rows`` is the number of rows of each input. Any method raises :class:`RunError` if an input
    now has another number, or other texts than those that were scored.
    """

    def __init__(
        self,
        plan: Plan,
        conversions: Sequence[Conversion],
        rows: Sequence[int],
        reader: ScoreReader,
        folder: Place,
    ) -> None:
        self.statistics: Statistics  # of all rows; known when all inputs have ended
        self._rest = _write_all(plan, conversions, rows, reader, folder)
        self.send(None)  # to its first block

    def send(self, block: Block | None) -> None:
        """Write the next block of all inputs, in order; ``None`` ends an input."""
        try:
            self._rest.send(block)
        except StopIteration as stop:
            self.statistics = stop.value

    def close(self) -> None:
        """Give up what is not written yet."""
        self._rest.close()


def _write_all(
    plan: Plan,
    conversions: Sequence[Conversion],
    rows: Sequence[int],
    reader: ScoreReader,
    folder: Place,
) -> Generator[None, Block | None, Statistics]:
    columns = plan.options.report_columns
    statistics = Statistics(columns, plan.options.include_text)
    folder.remove()
    counts = iter(rows)
    for output, conversion in zip(plan.outputs, conversions, strict=True):
        place = folder / (output.name or plan.out.name)
        Place(place.fs, place.path.rpartition("/")[0]).make_folder()
        file = statistics.of_next_file()
        with writing(plan, output, place, conversion.head) as writer:
            for source, table in zip(output.inputs, conversion.tables, strict=True):
                first = 1
                while (block := (yield)) is not None:
                    scores = reader.take(block.texts)
                    converted = conversion.block(table, block, first)
                    more = _with_more(plan, reader, scores)
                    # Known since the first scores are there, and written with the first rows.
                    writer.describe(made_by(reader.model, reader.versions, plan.options.thresholds))
                    with place.named_in_errors():
                        writer.write(converted, more)
                    found = texts_in(conversion.head, converted.rows, columns.names)
                    number = file.rows + 1  # in the output, which may have several inputs
                    file.add(ScoredBlock(output.name, number, scores, block.texts, found))
                    first += len(block.texts)
                if first - 1 != next(counts):
                    raise changed(plan, source)
        statistics.merge(file)
    return statistics


def _with_more(plan: Plan, reader: ScoreReader, scores: pa.Table) -> pa.Table:
    """Return scores with the columns that the command line asks for beside them."""
    if plan.options.thresholds is not None:
        scores = with_flags(scores, plan.options.thresholds)
    if plan.options.model_column:
        scores = with_model(scores, reader.model or "")
    return scores


@contextlib.contextmanager
def writing(plan: Plan, output: Output, place: Place, head: Head) -> Iterator[Writer]:
    """Open an output for writing, with the compression that its name asks for."""
    with contextlib.ExitStack() as open_files:
        file = cast(BinaryIO, open_files.enter_context(place.fs.open(place.path, "wb")))
        if output.format.compression:
            file = open_files.enter_context(packed(file, output.format.compression))
        added = plan.table(output.inputs[0]).added
        writer = WRITERS[output.format.kind](file, head, added, plan.options.dialect)
        try:
            yield writer
            with place.named_in_errors():
                writer.close()
        except BaseException:
            writer.abandon()
            raise
        with place.named_in_errors():
            open_files.close()
            place.sync()
