"""What holds for every reply whatever the model says, written by hand.

A recording that breaks one of these is refused, so that recording can't bless nonsense; what a
front answers is held to them too. Nothing here comes from the code under test.
"""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.conformance.suite import LABELS, SCORES, differences, is_number, shown, thresholds_of

SUM_TOLERANCE: Final = 1e-5
MODEL: Final = re.compile(r"[a-z0-9-]+@[0-9a-f]{12}")
WINDOWS: Final = re.compile(
    r"too_large: (.+): needs (\d+) windows of 512 tokens, the limit is (\d+)"
)
PLACES: Final = re.compile(
    r"(input|explain|robust|id|ids(\[\d+\])?|thresholds(\.(hate|abusing|neutral|spam|toxic))?|"
    r"(prompts?|texts?)(, (prompts?|texts?))*|'.{1,41}'): .+"
)
CODES: Final = ("validation", "too_large")
# Those that the cases use.
EMOTICONS: Final = (":D",)
# Cc, Cf and white space that the cases use; the service's own notion is wider.
INVISIBLE: Final = "\u00ad\u200b\u200d\u2060\ufeff\x00\x7f"


def echo(text: str) -> str:
    """Return a text as it comes back."""
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def reply_faults(
    request: Mapping[str, Any], reply: Mapping[str, Any], settings: Mapping[str, int]
) -> Iterator[str]:
    """Yield a line for each thing that is wrong with the reply to ``request``."""
    name = next(name for name in ("prompt", "text", "prompts", "texts") if name in request)
    once = ("model", "timing", "versions", "thresholds")
    item = {key: value for key, value in reply.items() if key not in once}
    if not MODEL.fullmatch(str(reply.get("model"))):
        yield f"model: {shown(reply.get('model'))}"
    yield from differences(None, reply.get("timing"), 0, "timing", "timing")
    yield from differences(None, reply.get("versions"), 0, "versions", "versions")
    yield from named_faults(request, reply.get("thresholds"))
    if name in ("prompt", "text"):
        if item.pop("id", None) != (request.get("id") or None):
            yield "id: not the one that was sent"
        yield from item_faults(request, request[name], item, settings)
        return
    if item.keys() != {"items"} or len(item["items"]) != len(request[name]):
        yield f"items: {shown(item)}"
        return
    ids = request.get("ids") or [None] * len(request[name])
    for index, (value, whole) in enumerate(zip(request[name], item["items"], strict=True)):
        place = f"{name}[{index}]"
        found = {key: value for key, value in whole.items() if key != "id"}
        if whole.get("id") != (ids[index] or None):
            yield f"items[{index}]: id: not the one that was sent"
        if "error" in found or item_error(value, place, request, settings):
            faults = list(failed_item_faults(request, value, found, place, settings))
        else:
            faults = list(item_faults(request, value, found, settings))
        yield from (f"items[{index}]: {fault}" for fault in faults)


def named_faults(request: Mapping[str, Any], found: Any) -> Iterator[str]:
    """Yield what is wrong with ``thresholds``, which tells what a name stood for."""
    asked = request.get("thresholds")
    name = asked.get("name") if isinstance(asked, Mapping) else asked
    if name is None:
        if found is not None:
            yield f"thresholds: {shown(found)}, but no name was sent"
        return
    if not isinstance(found, Mapping) or not re.fullmatch("[0-9a-f]{8}", found.get("version", "")):
        yield f"thresholds: {shown(found)}"
        return
    numbers = {key: value for key, value in found.items() if key not in ("name", "version")}
    if found["name"] != name or numbers != thresholds_of(request):
        yield f"thresholds: {shown(found)} are not those of {name}"


def failed_item_faults(
    request: Mapping[str, Any],
    value: Any,
    found: Mapping[str, Any],
    place: str,
    settings: Mapping[str, int],
) -> Iterator[str]:
    """Yield what is wrong with the item of a text that can't be scored."""
    error = item_error(value, place, request, settings)
    windows = WINDOWS.fullmatch(str(found.get("error")))
    if windows:  # how many depends on the tokeniser
        limit = settings["MAX_WINDOWS"]
        if windows[1] == place and int(windows[2]) > limit == int(windows[3]):
            error = windows[0]
    text = echo(value) if isinstance(value, str) else ""
    yield from differences({"text": text, "error": error}, found, 0, "item")


def item_error(
    value: Any, place: str, request: Mapping[str, Any], settings: Mapping[str, int]
) -> str | None:
    """Return the error that a text among many must give, too many windows apart."""
    if value is None:
        return f"validation: {place}: must be a string, not null"
    if not isinstance(value, str):
        return f"validation: {place}: must be a string"
    if not value:
        return f"validation: {place}: must not be empty"
    if len(value) > (limit := settings["MAX_TEXT_CHARS"]):
        return f"too_large: {place}: has {len(value)} characters, the limit is {limit}"
    if not value.strip().strip(INVISIBLE):
        return f"validation: {place}: holds nothing but white space or invisible characters"
    if request.get("explain") and (count := len(value.split())) > 256:
        return f"too_large: {place}: has {count} words to explain, the limit is 256"
    return None


def item_faults(
    request: Mapping[str, Any], value: str, item: Mapping[str, Any], settings: Mapping[str, int]
) -> Iterator[str]:
    """Yield what is wrong with the scores of one text."""
    thresholds = thresholds_of(request)
    keys = {"text", *SCORES, "label", "windows"}
    keys |= {"flagged"} if thresholds is not None else set()
    keys |= {"words"} if request.get("explain") else set()
    keys |= {"window"} if item.get("windows") != 1 else set()
    warned = is_foreign(value) and not request.get("robust")  # a disguise is no foreign language
    keys |= {"warnings"} if warned else {"warnings"} & item.keys()
    keys |= {"read_as"} if request.get("robust") and item.get("read_as") == "folded" else set()
    if item.keys() != keys:
        yield f"keys: {sorted(item)}, expected {sorted(keys)}"
        return
    text = echo(value)
    if item["text"] != text:
        yield f"text: {shown(item['text'])}, sent {shown(text)}"
    scores = {label: item[label] for label in LABELS}
    if not all(is_number(score) and 0 <= score <= 1 for score in scores.values()):
        yield f"scores: {shown(scores)}"
        return
    if abs(sum(scores.values()) - 1) > SUM_TOLERANCE:
        yield f"scores: they sum to {sum(scores.values())}"
    toxic = scores["hate"] + scores["abusing"]
    if not is_number(item["toxic"]) or not abs(item["toxic"] - toxic) <= SUM_TOLERANCE:
        yield f"toxic: {shown(item['toxic'])}, but hate and abusing sum to {toxic}"
        return
    if scores.get(item["label"]) != max(scores.values()):
        yield f"label: {shown(item['label'])} is not the largest of {scores}"
    if thresholds is not None:
        over = [name for name in SCORES if name in thresholds and item[name] >= thresholds[name]]
        if item["flagged"] != over:
            yield f"flagged: {shown(item['flagged'])}, expected {over}"
    yield from window_faults(text, item, settings)
    yield from warning_faults(value, item)
    if request.get("explain"):
        yield from word_faults(text, item)
    if request.get("explain") in (True, "shapley") and item["windows"] == 1:
        yield from sum_faults(item)


def window_faults(text: str, item: Mapping[str, Any], settings: Mapping[str, int]) -> Iterator[str]:
    """Yield what is wrong with ``windows`` and ``window``."""
    if type(item["windows"]) is not int or not 1 <= item["windows"] <= settings["MAX_WINDOWS"]:
        yield f"windows: {shown(item['windows'])}"
    elif item["windows"] > 1:
        window = item["window"]
        if [type(bound) for bound in window] != [int, int]:
            yield f"window: {shown(window)}"
        elif not 0 <= window[0] < window[1] <= len(text) or window == [0, len(text)]:
            yield f"window: {window} is no part of {len(text)} code points"


def is_foreign(text: str) -> bool:
    """Say whether no letter of a text is Latin, mentions and hashtags apart, of several letters.

    Full-width and mathematical letters are Latin, too: some tokenizers read them as such.
    """
    words = " ".join(word for word in text.split() if not set("@#") & set(word))
    plain = unicodedata.normalize("NFKC", words)
    letters = [c for c in plain if unicodedata.category(c).startswith("L")]
    return len(letters) > 1 and not any(
        unicodedata.name(c, "").startswith("LATIN") for c in letters
    )


def warning_faults(text: str, item: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with ``warnings``: known codes, in their order, not of any text."""
    warnings = item.get("warnings", ["unread"])
    if warnings not in (["unread"], ["language"], ["unread", "language"]):
        yield f"warnings: {shown(warnings)}"
    elif "warnings" in item and is_foreign(text) and warnings != ["unread"]:
        yield f"warnings: {shown(warnings)}, but the script decides"


def word_faults(text: str, item: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with ``words``: each run between white space, bare, in its place."""
    first, last = item.get("window", (0, len(text)))
    runs = []
    for white, group in itertools.groupby(enumerate(text), lambda pair: pair[1].isspace()):
        places = [index for index, _ in group]
        if not white and places[0] < last and places[-1] >= first:
            start, end = places[0], places[-1] + 1
            if text[start:end] not in EMOTICONS:
                said = [place for place in places if not is_edge(text[place])] or places
                start, end = said[0], said[-1] + 1
            runs.append((text[start:end], start, end))
    found = [(word.get("word"), word.get("start"), word.get("end")) for word in item["words"]]
    if found != runs:
        yield f"words: {shown(found)}, expected {shown(runs)}"
    for word in item["words"]:
        if word.keys() != {"word", "start", "end", *LABELS, "toxic"}:
            yield f"words: one has the keys {sorted(word)}"
        elif not all(is_number(word[label]) and -1 <= word[label] <= 1 for label in LABELS):
            yield f"words: an influence of {shown(word)}"
        elif abs(word["hate"] + word["abusing"] - word["toxic"]) > SUM_TOLERANCE:
            yield f"words: a sum of {shown(word)}"
        elif abs(sum(word[label] for label in LABELS)) > SUM_TOLERANCE:
            yield f"words: influences that do not cancel out in {shown(word)}"


def is_edge(character: str) -> bool:
    """Say whether this is punctuation that is not shown at the ends of a word."""
    return unicodedata.category(character)[0] == "P" and character not in "#@*%&/_"


def sum_faults(item: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the sum of all words: without it, probabilities must be left."""
    for label in LABELS:
        left = item[label] - sum(word[label] for word in item["words"])
        if not -SUM_TOLERANCE <= left <= 1 + SUM_TOLERANCE:
            yield f"words: without them {label} would be {left}"


def error_faults(request: Any, error: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with an error: it is one line, names the field and quotes no value."""
    if error.keys() != {"code", "message"} or error["code"] not in CODES:
        yield f"error: {shown(error)}"
        return
    message = error["message"]
    if not PLACES.fullmatch(message):
        yield f"message: {shown(message)} is not one line that begins with a place"
    values = request if isinstance(request, Mapping) else {"input": request}
    for text in re.findall(r"[^\W\d_]{4,}", json.dumps(list(values.values()))):
        if re.search(rf"\b{text}\b", message) and text not in MESSAGE_WORDS:
            yield f"message: {shown(message)} quotes {text}"


# What a message may say though the input holds it as well: names of the contract.
MESSAGE_WORDS: Final = frozenset({*SCORES, "null", "true", "false"})
