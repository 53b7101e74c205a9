"""A part that is merged is the part that was written, for the texts that were scored."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hatespeech.bulk import RunError
from hatespeech.bulk.engines.base import ScoredChunk
from hatespeech.bulk.places import Place
from hatespeech.bulk.workspace import ScoreFiles, ScoreReader, hash_of
from hatespeech.contract import Prediction, TextScore
from hatespeech.errors import ServiceError, ValidationError

TEXTS = ["good morning", None, "", "\ud800", 7, "12:ab"]
FLIPS = 300


def rows(count: int, seed: int) -> list[TextScore]:
    rng = random.Random(seed)
    scored = [Prediction([rng.random() for _ in range(4)], 1, None, None) for _ in range(count - 1)]
    outcomes: list[Prediction | ServiceError] = [ValidationError("is missing"), *scored]
    return [TextScore.of("", outcome, None) for outcome in outcomes]


@pytest.fixture
def files(tmp_path: Path) -> ScoreFiles:
    """Two parts of the texts."""
    made = ScoreFiles(Place.of(str(tmp_path)))
    for index in range(2):
        chunk = ScoredChunk(index, rows(len(TEXTS), index), "mini@0123456789ab")
        made.write(chunk, hash_of(TEXTS))
    return made


def test_one_wrong_bit_is_found_or_changes_nothing_that_is_read(
    files: ScoreFiles, tmp_path: Path
) -> None:
    path, rng = tmp_path / "00000001.parquet", random.Random(1)
    sound, known = path.read_bytes(), files.read(1)
    found = 0
    for _ in range(FLIPS):
        flipped, bit = bytearray(sound), rng.randrange(8 * len(sound))
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert files.read(1) == known, bit
        except RunError:
            found += 1
    assert found > FLIPS / 2


def test_a_part_under_another_name_is_found(files: ScoreFiles, tmp_path: Path) -> None:
    (tmp_path / "00000001.parquet").replace(tmp_path / "00000000.parquet")
    with pytest.raises(RunError, match="wrong checksum"):
        files.read(0)


@pytest.mark.parametrize("size", [1, 4, 5, 12])
def test_scores_are_taken_with_their_texts_however_these_are_cut(
    size: int, files: ScoreFiles
) -> None:
    reader, texts = ScoreReader(files, range(2)), [*TEXTS, *TEXTS]
    taken = [reader.take(texts[first : first + size]) for first in range(0, len(texts), size)]
    reader.end()
    scores = [score for table in taken for score in table["hate"].to_pylist()]
    assert scores == [s for index in range(2) for s in files.read(index).scores["hate"].to_pylist()]


@pytest.mark.parametrize("other", ["good evening", None, "", "12:a", 7])
@pytest.mark.parametrize("place", range(len(TEXTS)))
def test_another_text_is_found_by_the_end_of_its_part(
    other: object, place: int, files: ScoreFiles
) -> None:
    texts: list[object] = [*TEXTS]
    if texts[place] == other:
        other = "another"
    texts[place] = other
    with pytest.raises(RunError, match="not the one that was scored"):
        ScoreReader(files, range(2)).take(texts)


def test_texts_that_are_joined_otherwise_are_other_texts() -> None:
    assert len({hash_of(texts) for texts in (["ab", "c"], ["a", "bc"], ["abc"], ["", "abc"])}) == 4
