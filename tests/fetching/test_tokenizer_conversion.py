"""The tokenizer that ``download.py`` writes encodes as transformers' does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from hatespeech.fetching import FetchError
from hatespeech.fetching.tokenizer import build_tokenizer
from tests.paths import DATA
from tests.support.small_tokenizer import train_tokenizer

VECTORS = DATA / "normalise.jsonl"

# What the vectors hold little of: special tokens spelled out, white space, bytes never trained on.
MORE = [
    "",
    " ",
    "a <mask> b",
    "  <mask>",
    "x<s>y</s>z",
    "<pad> <unk>",
    " <s> hi ",
    "<MASK>",
    "tab\tand\nnew line ",
    "é e\u0301 \u200d \U0001f9d1\u200d\U0001f680 \U000e0041",
    "漢字 العربية \x00\x7f",
]


def rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in VECTORS.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    vectors = rows()
    return [row["normalised"] for row in vectors] + [row["raw"] for row in vectors] + MORE


@pytest.fixture(scope="module")
def older_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = [row["normalised"] for row in rows()]
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer"), corpus)


@pytest.fixture(scope="module")
def reference(older_files: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(older_files)
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def same_as(reference: Any, tokenizer: Tokenizer, texts: list[str]) -> None:
    assert len(texts) > 6000
    for text in texts:
        assert tokenizer.encode(text).ids == reference(text)["input_ids"], ascii(text)


def copy(source: Path, target: Path, *names: str) -> Path:
    target.mkdir()
    for name in names:
        shutil.copy(source / name, target / name)
    return target


def with_json(folder: Path, tokenizer: Tokenizer, **changes: Any) -> Path:
    """Save a tokenizer as tokenizer.json with some of its sections replaced."""
    document = json.loads(tokenizer.to_str()) | changes
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_tokenizer_built_from_vocabulary_and_merges_gives_the_ids_of_transformers(
    older_files: Path, reference: Any, texts: list[str]
) -> None:
    same_as(reference, build_tokenizer(older_files), texts)


def test_offsets_are_those_of_transformers(
    older_files: Path, reference: Any, texts: list[str]
) -> None:
    tokenizer = build_tokenizer(older_files)
    for text in texts:
        expected = reference(text, return_offsets_mapping=True)["offset_mapping"]
        assert tokenizer.encode(text).offsets == expected, ascii(text)


def test_tokenizer_json_as_transformers_saves_it_is_taken_as_it_is(
    tmp_path: Path, reference: Any, texts: list[str]
) -> None:
    reference.save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")  # not read
    (tmp_path / "merges.txt").write_text("")
    same_as(reference, build_tokenizer(tmp_path), texts)


def test_tokenizer_json_without_post_processor_is_rebuilt_from_the_older_files(
    tmp_path: Path, older_files: Path, reference: Any, texts: list[str]
) -> None:
    folder = copy(older_files, tmp_path / "t", "vocab.json", "merges.txt", "tokenizer_config.json")
    with_json(folder, reference.backend_tokenizer, post_processor=None)
    same_as(reference, build_tokenizer(folder), texts)


@pytest.mark.parametrize("spelled", [False, True], ids=["pairs", "strings"])
def test_tokenizer_json_without_post_processor_is_rebuilt_from_itself(
    tmp_path: Path, reference: Any, texts: list[str], spelled: bool
) -> None:
    model = json.loads(reference.backend_tokenizer.to_str())["model"]
    if spelled:  # as tokenizers wrote merges up to 0.19
        model["merges"] = [" ".join(pair) for pair in model["merges"]]
    with_json(tmp_path, reference.backend_tokenizer, post_processor=None, model=model)
    same_as(reference, build_tokenizer(tmp_path), texts)


def test_add_prefix_space_of_the_options_is_kept(tmp_path: Path, texts: list[str]) -> None:
    corpus = [row["normalised"] for row in rows()]
    folder = train_tokenizer(tmp_path, corpus, add_prefix_space=True)
    reference = AutoTokenizer.from_pretrained(folder)
    tokenizer = build_tokenizer(folder)
    assert tokenizer.encode("hello").ids == tokenizer.encode(" hello").ids
    for text in texts[:500]:
        assert tokenizer.encode(text).ids == reference(text)["input_ids"], ascii(text)


@pytest.mark.parametrize("limits", [["truncation"], ["padding"], ["truncation", "padding"]])
def test_truncation_and_padding_in_tokenizer_json_do_not_cut_or_pad(
    tmp_path: Path, reference: Any, limits: list[str]
) -> None:
    limiting = Tokenizer.from_str(reference.backend_tokenizer.to_str())
    limiting.add_tokens(["zzz"])  # lost if it is built anew, for which there is no reason
    if "truncation" in limits:
        limiting.enable_truncation(8)
    if "padding" in limits:
        limiting.enable_padding(length=16, pad_id=1, pad_token="<pad>")
    tokenizer = build_tokenizer(with_json(tmp_path, limiting))
    long = "word " * 600
    assert tokenizer.encode(long).ids == reference(long)["input_ids"]
    assert len(tokenizer.encode("a").ids) == 3
    assert tokenizer.token_to_id("zzz") is not None
    written = json.loads(tokenizer.to_str())
    assert (written["truncation"], written["padding"]) == (None, None)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "holds neither tokenizer.json nor vocab.json and merges.txt"),
        ({"vocab.json": "{}"}, "holds neither"),
        ({"vocab.json": "{", "merges.txt": "#version: 0.2\n"}, "cannot be read"),
        ({"vocab.json": '{"a": 0}', "merges.txt": "#version: 0.2\n"}, "vocabulary lacks one of"),
        ({"tokenizer.json": "not JSON"}, "cannot be read"),
        ({"tokenizer.json": "{}"}, "cannot be read"),
    ],
)
def test_folder_without_a_usable_tokenizer_is_refused_in_one_line(
    tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(FetchError, match=reason) as caught:
        build_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_tokenizer_of_another_kind_is_refused(tmp_path: Path, reference: Any) -> None:
    model = {"type": "WordLevel", "vocab": {"<s>": 0, "</s>": 1, "<unk>": 2}, "unk_token": "<unk>"}
    with_json(
        tmp_path,
        reference.backend_tokenizer,
        model=model,
        added_tokens=[],
        post_processor=None,
    )
    with pytest.raises(FetchError, match="is not byte-level BPE"):
        build_tokenizer(tmp_path)
