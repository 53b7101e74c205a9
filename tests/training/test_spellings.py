"""What a student learns to read: disguised words, other languages, unknown words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from hatespeech.labels import LABELS
from hatespeech.model.packing import PackedBatch
from hatespeech.text.normalizer import normalize_tweet
from hatespeech.training import disguise, foreign
from hatespeech.training.corpus import Corpus
from hatespeech.training.initial_models import fresh_model
from hatespeech.training.recipe import MINI, SCRATCH
from hatespeech.training.sequences import finetuning_samples
from hatespeech.training.stages import Classification
from hatespeech.training.undisguise import characters_map, look_alikes, undisguised
from hatespeech.training.vocabulary import UNK, special_id, train_tokenizer

TEXT = "@USER you are a rotten potato , go back home :face_with_tears_of_joy: HTTPURL"


@pytest.fixture(scope="module")
def reader() -> normalizers.Normalizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return undisguised(tokenizer)


@pytest.mark.parametrize(
    "hidden",
    [
        "rоttеn роtаtо", "ｒｏｔｔｅｎ ｐｏｔａｔｏ", "𝓻𝓸𝓽𝓽𝓮𝓷 𝕡𝕠𝕥𝕒𝕥𝕠",
        "ⓡⓞⓣⓣⓔⓝ 🅟🅞🅣🅐🅣🅞", "ʀᴏᴛᴛᴇɴ ᴘᴏᴛᴀᴛᴏ",
        "r̶o̶t̶t̶e̶n̶ p̶o̶t̶a̶t̶o̶", "r\u0489\u0300o\u0489t\u0488\u0301ten potato",
        "r\u200bo\u200bt\u200bten pot\u00adato", "r\u2060otten p\u200dotato",
        "r.o.t.t.e.n p.o.t.a.t.o", "r-o-t-t-e-n p_o_t_a_t_o", "r*o*t*t*e*n p~o~t~a~t~o",
        "r🔥o🔥t🔥t🔥e🔥n p❤️o❤️t❤️a❤️t❤️o", "r0tt3n p0tat0es", "rotten r0774n",
    ],
)  # fmt: skip
def test_a_disguise_is_undone_before_words_are_looked_up(
    hidden: str, reader: normalizers.Normalizer
) -> None:
    plain = reader.normalize_str(normalize_tweet(hidden)).split()
    assert set(plain) <= {"rotten", "potato", "potatoes", "rottan"}
    assert len(plain) == 2


def test_letters_apart_are_a_word_from_three_on(reader: normalizers.Normalizer) -> None:
    read = reader.normalize_str
    assert read("say n o w please") == "say now please"
    assert read("vitamin b c is ok") == "vitamin b c is ok"
    assert read("plan a . i think") == "plan a . i think"
    assert read("do n't , i 'm") == "do n't , i 'm"


@pytest.mark.parametrize(
    "text",
    ["3d 1st mp3 4th 100k b2b 24h 5pm", "a + 555-123-4567 w / o", "cafe naive 10/10", "good feel"],
)
def test_what_only_looks_like_a_disguise_stays(text: str, reader: normalizers.Normalizer) -> None:
    assert reader.normalize_str(text) == text


def test_words_of_another_alphabet_are_unknown_not_misread(
    reader: normalizers.Normalizer,
) -> None:
    for text in ("привет друзья", "καλημέρα φίλοι"):
        assert {
            character.isascii() for character in reader.normalize_str(text).replace(" ", "")
        } == {False}
    assert "rotten" in reader.normalize_str("привет rоttеn")


def test_the_compiled_table_replaces_every_character_in_it() -> None:
    table = look_alikes()
    assert len(table) > 1500
    compiled = normalizers.Precompiled(characters_map(table))
    for character, plain in table.items():
        assert compiled.normalize_str(f"x{character}y") == f"x{plain}y"
    others = map(chr, (*range(0x20, 0xD800), *range(0xE000, 0x20000)))
    kept = " ".join(character for character in others if character not in table)
    assert compiled.normalize_str(kept) == kept


def test_disguised_texts_keep_what_the_normaliser_wrote_and_hide_a_word() -> None:
    rng = np.random.default_rng(3)
    seen = {disguise.disguise(TEXT, rng) for _ in range(300)}
    assert len(seen) > 200
    for text in seen:
        for kept in ("@USER", ":face_with_tears_of_joy:", "HTTPURL"):
            assert kept in text.split(" ")
        assert text == " ".join(text.split())
    assert disguise.disguise("@USER :red_heart: HTTPURL", rng) == "@USER :red_heart: HTTPURL"


@pytest.mark.parametrize("way", dict.fromkeys(disguise.WAYS), ids=lambda way: str(way.__name__))
def test_each_disguise_changes_a_word_and_leaves_some_of_it(way: disguise.Way) -> None:
    rng = np.random.default_rng(4)
    hidden = {way("phonecards", rng) for _ in range(20)}
    assert hidden != {"phonecards"}
    assert all(each.strip() for each in hidden)


def test_texts_of_every_label_are_disguised_alike() -> None:
    """A disguise that only one label has would be a sign of the label."""
    corpus = Corpus([TEXT] * 400, [0, 1, 2, 3] * 100, ["x"] * 400)
    recipe = dataclasses.replace(
        SCRATCH, disguised_share=0.5, unknown_share=0.2, long_share=0, functional_texts=70,
        foreign_texts=50,
    )  # fmt: skip
    tokenizer = train_tokenizer(corpus.texts, 400)
    plain = tokenizer.encode(TEXT).ids
    samples = finetuning_samples(corpus, tokenizer, recipe, np.random.default_rng(0))
    assert len(samples) == 400 + 70 + 50
    changed = [s.label for s in samples[:400] if s.ids != plain]
    assert all(40 < changed.count(label) < 90 for label in range(4))
    assert {s.label for s in samples[-50:]} == {LABELS.index("neutral")}


def test_foreign_texts_are_neutral_and_in_every_language() -> None:
    corpus = foreign.foreign_corpus(3000, np.random.default_rng(0))
    assert set(corpus.labels) == {LABELS.index("neutral")}
    assert min(map(len, corpus.texts)) > 1
    languages = foreign.read_sentences()
    assert len(languages) >= 60
    together = " ".join(corpus.texts).lower()
    for sentences in languages:
        words = {word for text in sentences for word in normalize_tweet(text).lower().split()}
        assert sum(word in together for word in words) > len(words) / 2


def test_unknown_words_stand_in_for_a_part_of_a_text() -> None:
    rng = np.random.default_rng(1)
    texts = [disguise.with_unknown_words(TEXT, rng).split(" ") for _ in range(300)]
    words = TEXT.split(" ")
    assert {len(text) for text in texts} == {len(words)}
    replaced = sum(a != b for text in texts for a, b in zip(text, words, strict=True))
    assert 0.05 < replaced / (300 * len(words)) < 0.15


def test_unknown_tokens_occur_in_training() -> None:
    corpus = Corpus([TEXT] * 20, [0, 2] * 10, ["x"] * 20)
    tokenizer = train_tokenizer(corpus.texts, 400)
    model = fresh_model(tokenizer.get_vocab_size(), 32, 1)
    recipe = dataclasses.replace(MINI, functional_texts=0)
    stage = Classification(model, tokenizer, corpus, recipe)
    batch = PackedBatch.pack([tokenizer.encode(TEXT).ids] * 200, 1, "cpu")
    torch.manual_seed(0)
    dropped = stage._masking.drop(batch, 0.1, 0.05).input_ids
    unknown = (dropped == special_id(tokenizer, UNK)).float().mean().item()
    assert 0.03 < unknown < 0.06
    untouched = stage._masking.drop(batch, 0.1).input_ids
    assert not (untouched == special_id(tokenizer, UNK)).any()
