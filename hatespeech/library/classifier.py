"""A model as an object: load it, score texts, close it.

It scores through the batcher that the worker and the server use. So calls from several threads
share forward passes, one text does not wait for a list of thousands, a pass that runs out of memory
is halved, and a text that fails costs the others nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self, TypeVar, overload

from tqdm import tqdm
from typing_extensions import override

from hatespeech.contract import TextScore, parse_request, read_values
from hatespeech.errors import ServiceError
from hatespeech.labels import Explanation, Flag
from hatespeech.libraries import POLICY, SPINS, set_library_defaults, threads_spin
from hatespeech.settings import EngineSettings

if TYPE_CHECKING:
    from hatespeech.contract import Prediction, ScoreRequest
    from hatespeech.engine.batcher import Batcher
    from hatespeech.engine.predictor import Predictor

log = logging.getLogger(__name__)

Thresholds = Mapping[Flag, float] | str  # balanced, strict, or a name in THRESHOLDS_FILE
Frame = TypeVar("Frame")

# Texts that one call hands to the batcher in one go, and how often ahead of what it collects.
PART_TEXTS: Final = 512
EXPLAINED_PART_TEXTS: Final = 16  # they are read hundreds of times each
PARTS_AHEAD: Final = 4
UNLIMITED: Final = 2**62
CLOSED: Final = "this classifier is closed"


class Classifier:
    """A model on a device. Make one with :meth:`load`; use it from any number of threads."""

    def __init__(self, predictor: Predictor, settings: EngineSettings) -> None:
        self.model_id = predictor.model_id
        """The checkpoint's name, ``@``, and twelve hexadecimal digits of its hash."""
        self._settings = settings
        self._thresholds = predictor.thresholds
        self._running = _Running(predictor, settings)
        # A program that forgets to close it would otherwise end in the middle of a pass.
        self._closing = weakref.finalize(self, self._running.close)

    @classmethod
    def load(
        cls,
        model_dir: str | os.PathLike[str] | None = None,
        *,
        device: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] | None = None,
        max_batch_tokens: int | None = None,
        max_text_chars: int | None = None,
        max_windows: int | None = None,
        on_unread: Literal["warn", "refuse"] | None = None,
    ) -> Self:
        """Load a checkpoint folder.

        An argument that is ``None`` takes the environment variable of its name in capitals, else
        the default of docs/settings.md: without ``model_dir`` and ``MODEL_ID`` that is the
        published model if ``download.py`` has fetched it, else the small embedded one.

        Raises :class:`CheckpointError` for a folder that can't be served and
        :class:`SettingsError` for a bad value or a device that does not exist.
        """
        given = {
            "model_dir": None if model_dir is None else Path(model_dir),
            "device": device,
            "dtype": dtype,
            "max_batch_tokens": max_batch_tokens,
            "max_text_chars": max_text_chars,
            "max_windows": max_windows,
            "on_unread": on_unread,
        }
        environment = {
            **os.environ,
            **{name.upper(): str(value) for name, value in given.items() if value is not None},
        }
        if model_dir is not None:
            environment.pop("MODEL_ID", None)
        settings = EngineSettings.from_environment(environment)
        if "torch" not in sys.modules:
            set_library_defaults(os.environ)

        from hatespeech.engine.predictor import Predictor

        predictor = Predictor.from_settings(settings)
        if predictor.device.type == "cpu":
            warn_if_threads_spin()
        return cls(predictor, settings)

    @overload
    def score(  # type: ignore[overload-overlap]  # a string is an iterable of strings
        self,
        texts: str,
        *,
        explain: bool | Explanation = ...,
        robust: bool | None = ...,
        thresholds: Thresholds | None = ...,
        progress: bool = ...,
    ) -> TextScore: ...
    @overload
    def score(
        self,
        texts: Iterable[object],
        *,
        explain: bool | Explanation = ...,
        robust: bool | None = ...,
        thresholds: Thresholds | None = ...,
        progress: bool = ...,
    ) -> list[TextScore]: ...

    def score(
        self,
        texts: str | Iterable[object],
        *,
        explain: bool | Explanation = False,
        robust: bool | None = None,
        thresholds: Thresholds | None = None,
        progress: bool = False,
    ) -> TextScore | list[TextScore]:
        """Score one text, or many: a list, a generator, a Series, an array.

        Returns one :class:`TextScore` for a string, else a list in the order of ``texts``. A value
        that can't be scored (``None``, NaN, a number, an empty or too long text) gives an item with
        its ``error``. ``explain`` adds ``words``, how much of the scores each word carries, at the
        price of up to 255 more readings of a tweet; ``"leave_one_out"`` costs one for each word.
        ``robust`` also reads a disguised text without its disguise; ``read_as`` says when the
        scores are those of that reading. ``None`` takes the setting ``ROBUST``. ``thresholds`` add
        ``flagged``: numbers by label or for ``toxic``, or a name that the model recommends or
        ``THRESHOLDS_FILE`` has. ``progress`` shows a bar on standard error.

        Raises :class:`TypeError` for a mapping, a set or a table, whose items are not texts in an
        order, :class:`ValidationError` for bad ``thresholds``, ``explain`` or ``robust``,
        :class:`UnhealthyError` if the device breaks, and :class:`RuntimeError` once closed.
        """
        options = self._options(explain, robust, thresholds)
        if isinstance(texts, str):
            (item,) = self._score([texts], options, progress)
            return item
        _require_texts(texts)
        return self._score([_text_or_none(value) for value in texts], options, progress)

    def score_frame(
        self,
        frame: Frame,
        column: str = "text",
        *,
        robust: bool | None = None,
        thresholds: Thresholds | None = None,
        prefix: str = "",
        progress: bool = False,
    ) -> Frame:
        """Score a column of a DataFrame (pandas, polars, or another that narwhals knows).

        Returns the same kind of frame with the same rows and index, and the columns of score.py
        beside: ``hate``, ``abusing``, ``neutral``, ``spam``, ``toxic`` (float32), ``label``,
        ``windows``, ``warnings``, ``read_as`` and ``error``; with ``thresholds`` also ``flagged``,
        names separated by commas. ``prefix`` stands before these names.

        Raises :class:`ValueError` if the column is missing or a new column's name is taken, and
        :class:`TypeError` for what is not a DataFrame; otherwise as :meth:`score`.
        """
        from hatespeech.library.frames import add_scores, texts_of

        texts = texts_of(frame, column, prefix, flagged=thresholds is not None)
        items = self.score(texts, robust=robust, thresholds=thresholds, progress=progress)
        return add_scores(frame, items, prefix, flagged=thresholds is not None)

    def close(self) -> None:
        """Stop the threads and let go of the model. A second call does nothing."""
        self._closing()

    @override
    def __reduce__(self) -> NoReturn:
        """Raise :class:`TypeError`: ``multiprocessing``, joblib and Spark would send it."""
        raise TypeError("a classifier can't be sent to another process: load one in each")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _options(
        self, explain: bool | Explanation, robust: bool | None, thresholds: Thresholds | None
    ) -> ScoreRequest:
        """Check the options as the contract does."""
        body: dict[str, Any] = {"text": "checked apart", "explain": explain, "robust": robust}
        if thresholds is not None:
            body["thresholds"] = dict(thresholds) if isinstance(thresholds, Mapping) else thresholds
        kept = {"robust": self._settings.robust, "thresholds_file": self._settings.thresholds_file}
        limits = EngineSettings().model_copy(update=kept)
        return parse_request(body, limits).resolve(self._thresholds)

    def _score(
        self, values: Sequence[str | object], options: ScoreRequest, progress: bool
    ) -> list[TextScore]:
        items: list[TextScore] = []
        waiting: deque[Future[list[TextScore]]] = deque()
        bar = tqdm(total=len(values), unit=" texts", disable=not progress)
        try:
            with bar:
                size = EXPLAINED_PART_TEXTS if options.explain else PART_TEXTS
                for start in range(0, len(values), size):
                    part = values[start : start + size]
                    waiting.append(self._running.submit(part, options))
                    if len(waiting) > PARTS_AHEAD:
                        items += _collect(waiting, bar)
                while waiting:
                    items += _collect(waiting, bar)
        finally:
            for future in waiting:  # the caller was interrupted, or the device broke
                future.cancel()
        return items


class _Running:
    """An event loop in a thread, and in it the batcher that every call shares."""

    def __init__(self, predictor: Predictor, settings: EngineSettings) -> None:
        self._predictor: Predictor | None = predictor
        self._settings = settings
        self._batcher: Batcher | None = None
        self._process = os.getpid()  # threads do not survive a fork
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="classifier", daemon=True
        )
        self._thread.start()

    def submit(self, values: Sequence[object], options: ScoreRequest) -> Future[list[TextScore]]:
        """Begin to score values; raise :class:`RuntimeError` if closed, or in a forked process."""
        if os.getpid() != self._process:
            raise RuntimeError("this classifier belongs to another process: load one in each")
        if self._predictor is None:
            raise RuntimeError(CLOSED)
        return asyncio.run_coroutine_threadsafe(self._score(values, options), self._loop)

    def close(self) -> None:
        """Stop the threads, once the pass that runs is done."""
        self._predictor = None
        if self._loop.is_closed() or os.getpid() != self._process:
            return
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _score(self, values: Sequence[object], options: ScoreRequest) -> list[TextScore]:
        texts, faults = read_values(values, self._settings)
        sound = [i for i in range(len(texts)) if i not in faults]
        outcomes: dict[int, Prediction | ServiceError] = dict(faults)
        if sound:
            scored, _ = await self._shared().score(
                [texts[i] for i in sound], options.explain, options.robust
            )
            outcomes |= zip(sound, scored, strict=True)
        items = []
        for index, text in enumerate(texts):
            outcome = outcomes[index]
            if isinstance(outcome, ServiceError):
                outcome = outcome.at("text")
            items.append(TextScore.of(text, outcome, options.thresholds))
        return items

    def _shared(self) -> Batcher:
        if self._batcher is None:
            from hatespeech.engine.batcher import Batcher
            from hatespeech.engine.pass_size import PassSize

            if self._predictor is None:
                raise RuntimeError(CLOSED)
            self._batcher = Batcher(
                self._predictor,
                pass_size=PassSize(self._settings.max_batch_tokens),
                max_queue_texts=max(self._settings.max_queue_texts, PART_TEXTS),
                max_request_tokens=UNLIMITED,
                on_broken=lambda: None,
            )
        return self._batcher

    async def _stop(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._batcher is not None:
            self._batcher.close()


@cache  # so it warns once in a process
def warn_if_threads_spin() -> None:
    """Log a warning if torch was imported before anyone decided how its threads wait."""
    if threads_spin(os.environ):
        log.warning(
            "torch was imported before hatespeech, so its threads spin while they wait. Scoring on "
            "a CPU becomes slower when other work wants the cores. Import hatespeech "
            "first, or set %s=PASSIVE and %s=3000 before Python starts",
            *(POLICY, SPINS),
        )


def _collect(waiting: deque[Future[list[TextScore]]], bar: Any) -> list[TextScore]:
    try:
        items = waiting.popleft().result()
    except CancelledError:
        raise RuntimeError(CLOSED) from None  # by another thread, meanwhile
    bar.update(len(items))
    return items


def _require_texts(texts: object) -> None:
    """Raise :class:`TypeError` for what holds no texts in an order.

    Going through a mapping or a table gives the names of its keys or columns.
    """
    kind = type(texts)
    if hasattr(kind, "columns"):  # of the type: the values of a Series may be attributes
        raise TypeError(f"texts: must not be a {kind.__name__}; use score_frame")
    if isinstance(texts, Mapping):
        raise TypeError(f"texts: must not be a {kind.__name__}; give its values, as a list")
    if isinstance(texts, set | frozenset):
        raise TypeError(f"texts: must not be a {kind.__name__}, which has no order; give a list")
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise TypeError(f"texts: must be a string or an iterable, not {kind.__name__}")


def _text_or_none(value: object) -> object:
    """Return a value as the contract reads it: what stands for a missing text is ``None``."""
    if isinstance(value, str) or value is None:
        return value
    missing = type(value).__name__ in ("NAType", "NaTType")  # of pandas
    return None if missing or (isinstance(value, float) and value != value) else value
