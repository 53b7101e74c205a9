"""Another service's scores, names of groups in the same sentences, and the model card."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hatespeech.bulk import RunError
from hatespeech.evaluation import command
from hatespeech.evaluation.swap import STARTER, measure_swap, read_swap
from hatespeech.model.checkpoint import describe
from tests.evaluation.conftest import PREFIX, Evaluate, Row, sure
from tests.paths import EMBEDDED


def pairs(count: int, labelled: bool = True) -> list[Row]:
    """Rows of which another service's score is our own, squared, and so ranks alike."""
    rng = random.Random(7)
    rows: list[Row] = []
    for _ in range(count):
        toxic = rng.random()
        scores = [toxic / 2, toxic / 2, (1 - toxic) / 2, (1 - toxic) / 2]
        other: dict[str, Any] = {"theirs": toxic**2}
        if labelled:
            other["label"] = int(rng.random() < toxic)
        rows.append((scores, other))
    return rows


def test_scores_that_rank_alike_agree_and_have_a_threshold_that_decides_alike(
    evaluated: Evaluate,
) -> None:
    found = evaluated(pairs(1000), "--against", "theirs", "--against-threshold", "0.49")
    compared = found["comparison"]
    assert compared["rank_correlation"] == pytest.approx(1)
    assert compared["our_area"] == pytest.approx(compared["their_area"])
    assert compared["our_threshold"] == pytest.approx(0.7, abs=0.011)
    assert compared["agree"]["value"] > 0.98
    assert compared["kappa"] > 0.95


def test_texts_without_labels_are_compared_too(evaluated: Evaluate) -> None:
    rows = pairs(200, labelled=False)
    rows[17] = (sure("hate"), {"theirs": 0.0})
    rows[3] = (rows[3][0], {"theirs": None})
    found = evaluated(rows, "--against", "theirs", "--against-threshold", "0.25")
    assert found["figures"] is None
    compared = found["comparison"]
    assert (compared["texts"], compared["our_area"]) == (199, None)
    assert compared["disagreements"][0]["row"] == 18
    assert compared["disagreements"][0]["text"] is None


def test_another_file_is_matched_by_its_texts(
    evaluated: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(sure(label), {"label": label}) for label in ("hate", "neutral", "spam", "abusing")]
    other = tmp_path / "other.csv"
    other.write_text("text,rude\ntext 3,0.9\ntext 0,0.8\nelse,0.1\ntext 1,0.2\n")
    against = ["--against", "rude", "--against-file", str(other)]
    compared = evaluated(rows, *against)["comparison"]
    assert compared["texts"] == 3
    assert compared["their_area"] == 1
    other.write_text("text,rudeness\ntext 3,0.9\n")
    assert command.main([str(tmp_path / "scored.jsonl"), "--scored", PREFIX, *against]) == 1
    missing = "has no column rude (--against); it has text, rudeness; is rudeness meant?"
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {other}: {missing}"
    other.write_text("text,rude\ntext 3,confidential\n")
    assert command.main([str(tmp_path / "scored.jsonl"), "--scored", PREFIX, *against]) == 1
    assert f"error: {other}: column rude, row " in (line := capsys.readouterr().err)
    assert "confidential" not in line


def test_the_starter_file_has_groups_and_templates_of_both_kinds() -> None:
    found = read_swap(STARTER)
    assert len(found.groups) >= 30
    assert len(found.templates) == 20
    assert len(found.texts) == 20 * len(found.groups)
    assert "Muslims in our town meet every second Tuesday" in found.texts
    assert len({name for _, name in found.groups}) == len(found.groups)


SWAP = """
neutral = ["we met {group}", "{group} like tea"]
hateful = ["away with {group}"]
[groups]
colour = ["blues", "greens"]
"""


def test_a_name_that_raises_the_scores_is_found(tmp_path: Path) -> None:
    path = tmp_path / "groups.toml"
    path.write_text(SWAP)
    asked = read_swap(path)
    assert asked.texts[2:] == ["Blues like tea", "Greens like tea", *asked.texts[4:]]
    high, low, hate = [0.5, 0.1, 0.3, 0.1], [0.05, 0.05, 0.8, 0.1], [0.9, 0.0, 0.1, 0.0]
    scores = np.array([high, low, low, low, hate, low], dtype=np.float32)
    found = measure_swap(asked, scores)
    assert found.spread == pytest.approx({"neutral": 0.25, "hateful": 0.8})
    assert found.widest == {"neutral": "we met {group}", "hateful": "away with {group}"}
    blues, greens = found.groups
    assert (blues.group, blues.neutral_called_toxic, blues.hateful_missed) == ("blues", 0.5, 0)
    assert (greens.group, greens.neutral_called_toxic, greens.hateful_missed) == ("greens", 0, 1)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("{group} like tea", "they like tea"), "neutral.1 must hold {group} once"),
        (("away with {group}", "{group} {group}"), "hateful.0 must hold {group} once"),
        (("colour", "=colour"), "is not TOML"),
        (("hateful", "rude"), "hateful is missing or wrong"),
        (('"blues", "greens"', '"blues", 7'), "groups.colour.1 is missing or wrong"),
    ],
)
def test_a_wrong_file_of_groups_names_the_place(
    change: tuple[str, str], fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "groups.toml"
    path.write_text(SWAP.replace(*change))
    with pytest.raises(RunError) as caught:
        read_swap(path)
    assert str(caught.value) == f"--swap {path}: {fault}"


def test_figures_go_into_the_card_and_replace_their_own_section_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(EMBEDDED, folder)
    before = (folder / "README.md").read_text(encoding="utf-8")
    monkeypatch.setenv("MODEL_DIR", str(folder))
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    monkeypatch.chdir(tmp_path)
    rows = ["good morning\tneutral\ta|b", "you are scum\tabusing\tc"]
    cards = []
    for texts in (rows, rows[:1], rows[:1]):
        Path("ours.tsv").write_text("\n".join(["text\tlabel\tby", *texts]) + "\n")
        options = ["--card", "--swap", "groups.toml", "--group-column", "by"]
        Path("groups.toml").write_text(SWAP)
        assert command.main(["ours.tsv", *options]) == 0
        cards.append((folder / "README.md").read_text(encoding="utf-8"))
    assert cards[0].startswith(before.rstrip())
    assert "## Figures on ours.tsv" in cards[0]
    assert "on 2 texts (SHA-256" in cards[0]
    assert "| by a\\|b | 1 | 1.000 |" in cards[0]
    assert "on 1 texts (SHA-256" in cards[1]
    assert cards[1].startswith(before.rstrip())
    assert cards[1].count("## Figures on ours.tsv") == 1
    assert cards[2] == cards[1]
    assert "identity swap: the group's name moves toxic by" in capsys.readouterr().out
    assert describe(folder).model_id == describe(EMBEDDED).model_id


@pytest.mark.parametrize("model_dir", [str(EMBEDDED), "nowhere"])
def test_the_projects_own_card_is_not_written(
    model_dir: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODEL_DIR", model_dir)
    assert command.main(["ours.tsv", "--card"]) == 1
    assert "error: --card: set MODEL_DIR" in capsys.readouterr().err


def test_a_page_shows_the_comparison_and_the_swap(evaluated: Evaluate, tmp_path: Path) -> None:
    page, groups = tmp_path / "page.html", tmp_path / "groups.toml"
    groups.write_text(SWAP)
    rows = [
        (scores, {**other, "text": f"<i>{n}</i>"}) for n, (scores, other) in enumerate(pairs(60))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_DIR", str(EMBEDDED))
        options = ["--against", "theirs", "--swap", str(groups), "--report", str(page)]
        content = evaluated(rows, *options, "--include-text")
    html = page.read_text(encoding="utf-8")
    assert "<h2>Against theirs</h2>" in html
    assert "<h2>Identity swap</h2>" in html
    assert "<i>" not in html
    assert json.dumps(content["swap"]["texts"]) == "6"
