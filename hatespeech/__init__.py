"""Scores tweets: hate, abusing, neutral, spam.

    from hatespeech import Classifier

    with Classifier.load() as classifier:
        for item in classifier.score(["good morning", "you are scum"]):
            print(item.label, item.scores)

Its parts, from the lowest layer up; nothing imports what stands below it in this list:

    labels, errors, paths      names that everything shares
    cli, bars, locks           command lines, progress bars, one process for a folder
    retry, urls, memory        waits between tries, URLs without secrets, resident memory
    libraries, version         variables that torch reads, the version
    collector                  when Python's garbage collector runs
    extras                     what to say if a package is missing
    door                       where every program starts and ends
    settings, contract, logs   what can be set, what callers send and get back, the log
    journal                    files that lines are only appended to
    named_thresholds           a file of thresholds that someone chose for a checkpoint
    pages/                     the frame and the charts of the pages that commands write
    text/                      a raw tweet to the text that BERTweet was trained on
    model/                     the network, its packed batches, the checkpoint folder
    formats/                   files of texts: a reader and a writer for each format
    engine/                    texts to scores on one device, for one caller or many
    telemetry/                 what fronts tell about themselves: log lines, metrics, traces
    library/                   the engine for notebooks and programs
    worker/                    the Runpod front
    serving/                   the HTTP front
    bulk/                      files and folders of texts
    fetching/                  the published checkpoint: download it, convert it
    evaluation/                a model's figures on labelled texts
    training/                  a checkpoint of your own
    console/                   the command ``hatespeech``
    checkpoints/mini/          the embedded checkpoint
"""

from __future__ import annotations

import os
import sys

from hatespeech.libraries import let_threads_sleep
from hatespeech.version import __version__

TYPE_CHECKING = False  # as in typing, which takes longer to load than all else here
if TYPE_CHECKING:
    from typing import Any

    from hatespeech.contract import TextScore, WordInfluence
    from hatespeech.errors import (
        CheckpointError,
        InternalError,
        OverloadedError,
        ServiceError,
        SettingsError,
        TooLargeError,
        UnhealthyError,
        UnreadError,
        ValidationError,
    )
    from hatespeech.labels import LABELS
    from hatespeech.library.classifier import Classifier

__all__ = [
    "LABELS",
    "CheckpointError",
    "Classifier",
    "InternalError",
    "OverloadedError",
    "ServiceError",
    "SettingsError",
    "TextScore",
    "TooLargeError",
    "UnhealthyError",
    "UnreadError",
    "ValidationError",
    "WordInfluence",
    "__version__",
]

if "torch" not in sys.modules:
    let_threads_sleep(os.environ)  # OpenMP looks only when torch loads it

# Where each name is. It is imported when it is first used: the package itself loads quickly, and
# nothing loads torch before it must.
_HOMES = {
    "LABELS": "labels",
    "Classifier": "library.classifier",
    "TextScore": "contract",
    "WordInfluence": "contract",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}")
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
