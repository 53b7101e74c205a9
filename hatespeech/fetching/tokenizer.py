"""The tokenizer: its files from the hub or a folder, made into one ``tokenizer.json``.

The service reads only ``tokenizer.json``. A repository may hold just the older ``vocab.json`` and
``merges.txt``, or a ``tokenizer.json`` that does not wrap a text in ``<s> … </s>``. Then one like
RoBERTa's is built: byte-level BPE, the special tokens, the wrapping. ``transformers`` is not
needed.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from hatespeech.fetching import FetchError
from hatespeech.retry import RETRIED_STATUS, Backoff

TOKENIZER: Final = "tokenizer.json"
VOCABULARY: Final = "vocab.json"
MERGES: Final = "merges.txt"
OPTIONS: Final = "tokenizer_config.json"

BEGIN, PAD, END, UNKNOWN, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"

_BACKOFF: Final = Backoff(first=0.5, longest=30.0)

T = TypeVar("T")


def build_tokenizer(folder: Path) -> Tokenizer:
    """Return the folder's tokenizer, which wraps texts in ``<s> … </s>`` and does not cut or pad.

    Raises :class:`FetchError` if files are missing, or the tokenizer is of another kind.
    """
    try:
        tokenizer = None
        if (folder / TOKENIZER).is_file():
            tokenizer = _read_tokenizer(folder)
        if tokenizer is None or not wraps(tokenizer):
            tokenizer = _build(_read_model(folder), _read_options(folder))
    except FetchError:
        raise
    except Exception as exc:  # tokenizers raises bare Exception, its only class
        reason = (str(exc) or type(exc).__name__).splitlines()[0]
        raise FetchError(f"the tokenizer in {folder.name} cannot be read: {reason}") from exc
    if not wraps(tokenizer):
        raise FetchError(f"the tokenizer in {folder.name} has no {BEGIN} and {END}")
    return tokenizer


def _read_tokenizer(folder: Path) -> Tokenizer:
    """Read ``tokenizer.json``, without its limit on a text's length: the service has its own."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def wraps(tokenizer: Tokenizer) -> bool:
    """Tell whether a text is encoded as ``<s> … </s>``."""
    ids: list[int] = tokenizer.encode("").ids
    return ids == [tokenizer.token_to_id(BEGIN), tokenizer.token_to_id(END)]


def _read_model(folder: Path) -> BPE:
    """Read vocabulary and merges, from their two files or from ``tokenizer.json``."""
    if (folder / VOCABULARY).is_file() and (folder / MERGES).is_file():
        return BPE.from_file(str(folder / VOCABULARY), str(folder / MERGES))
    if not (folder / TOKENIZER).is_file():
        raise FetchError(f"{folder.name} holds neither {TOKENIZER} nor {VOCABULARY} and {MERGES}")
    model = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))["model"]
    if model.get("type") != "BPE":
        raise FetchError(f"the tokenizer in {folder.name} is not byte-level BPE")
    # Older files write a merge as "a b", newer ones as ["a", "b"].
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
    return BPE(model["vocab"], merges)


def _read_options(folder: Path) -> dict[str, Any]:
    if not (folder / OPTIONS).is_file():
        return {}
    options: dict[str, Any] = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
    return options


def _build(model: BPE, options: dict[str, Any]) -> Tokenizer:
    """Build RoBERTa's tokenizer around a byte-level BPE model.

    ``<mask>`` includes the white space before it, as in RoBERTa's pre-training.
    """
    prefix_space = bool(options.get("add_prefix_space", False))
    tokenizer = Tokenizer(model)
    ids = {token: tokenizer.token_to_id(token) for token in (BEGIN, PAD, END, UNKNOWN, MASK)}
    begin, end = ids[BEGIN], ids[END]
    if begin is None or end is None or None in ids.values():
        raise FetchError(f"the vocabulary lacks one of {', '.join(ids)}")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (BEGIN, PAD, END, UNKNOWN)]
        + [AddedToken(MASK, special=True, normalized=False, lstrip=True)]
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, end),
        (BEGIN, begin),
        trim_offsets=bool(options.get("trim_offsets", True)),
        add_prefix_space=prefix_space,
    )
    return tokenizer


def fetch_tokenizer(
    repository: str,
    revision: str,
    folder: Path,
    *,
    timeout: float,
    retries: int,
    notify: Callable[[str], object],
) -> str:
    """Fetch only the files that :func:`build_tokenizer` needs; return their commit.

    The environment's ``HF_ENDPOINT`` and ``HF_TOKEN`` choose hub and token, as everywhere with
    ``huggingface_hub``. Raises :class:`FetchError`.
    """
    # huggingface_hub reads these when it is imported.
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(max(1, int(timeout))))
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", str(max(1, int(timeout))))
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    import huggingface_hub

    # Its errors come as exceptions, too.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)

    def attempt(action: Callable[[], T]) -> T:
        return _with_retries(action, f"{repository} ({revision})", retries, notify)

    api = huggingface_hub.HfApi()
    info = attempt(lambda: api.model_info(repository, revision=revision, timeout=timeout))
    commit = info.sha
    if not commit:
        raise FetchError(f"{repository}: the hub does not say which commit {revision} is")
    there = {sibling.rfilename for sibling in info.siblings or ()}

    def fetch(*names: str) -> None:
        for name in there.intersection(names):
            attempt(
                lambda name=name: api.hf_hub_download(  # type: ignore[misc]  # mypy: bound default
                    repository, name, revision=commit, local_dir=folder
                )
            )

    fetch(TOKENIZER)
    if TOKENIZER not in there or not _is_complete(folder):
        fetch(VOCABULARY, MERGES, OPTIONS)
    return commit


def _is_complete(folder: Path) -> bool:
    try:
        return wraps(_read_tokenizer(folder))
    except Exception:  # tokenizers raises bare Exception; build_tokenizer reports the reason
        return False


def _with_retries(
    action: Callable[[], T], what: str, retries: int, notify: Callable[[str], object]
) -> T:
    """Call ``action`` until it succeeds, or fails in a way that waiting can't change."""
    import httpx2
    from huggingface_hub import errors

    for tries in range(1, retries + 2):
        lasting = False
        try:
            return action()
        except errors.GatedRepoError:
            reason, lasting = "access is restricted; set HF_TOKEN to a token that has access", True
        except errors.RepositoryNotFoundError:
            reason, lasting = "no such repository, or a private one that HF_TOKEN cannot see", True
        except errors.RevisionNotFoundError:
            reason, lasting = "no such revision", True
        except errors.HfHubHTTPError as exc:
            status = exc.response.status_code
            lasting = status < 500 and status not in RETRIED_STATUS
            reason = f"the hub answered {status}"
        except httpx2.TransportError:
            reason = "the hub cannot be reached"
        except errors.LocalEntryNotFoundError:  # the library has already tried six times
            reason, lasting = "the hub cannot be reached", True
        except (errors.OfflineModeIsEnabled, errors.HFValidationError, OSError, ValueError) as exc:
            reason, lasting = (str(exc) or type(exc).__name__).splitlines()[0], True
        if lasting or tries > retries:
            break
        delay = _BACKOFF.seconds(tries)
        notify(f"{what}: {reason}; trying again in {delay:g} s")
        time.sleep(delay)
    raise FetchError(f"{what}: {reason}")
