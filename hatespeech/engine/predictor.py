"""Texts to scores on one device: normalise, tokenise, window, forward, softmax.

A text is read by a generator, :meth:`Predictor.read`. It yields token sequences to score and is
sent their probabilities: once, or several times if it explains. So one description of how a text
is read serves both a loop over a list, here, and shared batches, in
:mod:`hatespeech.engine.batcher`.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, Self

import torch
from tokenizers import Tokenizer

from hatespeech import paths
from hatespeech.contract import Prediction, ReadAs, Versions
from hatespeech.engine.encoder import Encoded, Encoder, Readings
from hatespeech.engine.explanation import explain
from hatespeech.engine.spans import locate, words_to_explain
from hatespeech.errors import (
    CheckpointError,
    InternalError,
    ServiceError,
    SettingsError,
)
from hatespeech.labels import LABELS, Explanation
from hatespeech.logs import FIELDS
from hatespeech.memory import MIB, resident_bytes
from hatespeech.model import checkpoint as checkpoints
from hatespeech.model import hub_cache, int8, threads
from hatespeech.model.checkpoint import Checkpoint
from hatespeech.model.network import CustomModel
from hatespeech.model.packing import ROW_STEP
from hatespeech.named_thresholds import NamedThresholds, version_of
from hatespeech.settings import EngineSettings
from hatespeech.text import language
from hatespeech.text.folding import fold, fold_in_places
from hatespeech.text.normalizer import NORMALIZER_VERSION, normalize_tweet
from hatespeech.version import __version__

log = logging.getLogger(__name__)

# Offline, at most PARTS_AHEAD parts of READ_AT_ONCE texts are read ahead of the device.
READ_AT_ONCE: Final = 128
PARTS_AHEAD: Final = 32

WARM_UP_TOKENS: Final = 128  # nearly every tweet is shorter
WARM_UP_SECONDS: Final = 0.3

NEUTRAL: Final = LABELS.index("neutral")

Sequences = list[list[int]]
Probabilities = list[list[float]]
# Yields token sequences, is sent [len(sequences)][labels] probabilities, returns the prediction.
Reading = Generator[Sequences, Probabilities, Prediction]


def own_thresholds(checkpoint: Checkpoint, settings: EngineSettings) -> NamedThresholds | None:
    """Return the operator's thresholds, if there are any.

    Raises :class:`SettingsError` if they are not for this checkpoint.
    """
    if settings.thresholds_file is None:
        return None
    return NamedThresholds.load(settings.thresholds_file, checkpoint.model_id)


def named_thresholds(
    checkpoint: Checkpoint, own: NamedThresholds | None
) -> dict[str, NamedThresholds]:
    """Return the thresholds that a checkpoint recommends, and the operator's, by name."""
    recommended = {
        name: NamedThresholds(name, version_of(numbers, checkpoint.model_id), numbers)
        for name, numbers in checkpoint.thresholds.items()
    }
    return recommended | ({own.name: own} if own else {})


class Predictor:
    """One model on one device. ``read`` and ``probabilities`` may run in different threads."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: CustomModel,
        tokenizer: Tokenizer,
        max_windows: int,
        refuses: bool = False,
        own: NamedThresholds | None = None,
    ) -> None:
        self.model_id = checkpoint.model_id
        self.languages = checkpoint.languages
        self.embedded = checkpoint.path.resolve() == paths.EMBEDDED.resolve()
        self.versions = Versions(__version__, checkpoint.digits, NORMALIZER_VERSION)
        self.thresholds = named_thresholds(checkpoint, own)
        self.max_windows = max_windows
        self.device = model.linear1.weight.device
        self.dtype = checkpoints.dtype_name(model)
        self.tokens_per_second: float | None = None
        """The speed of the warm-up's last pass, lower than that of later ones."""
        self._model = model
        self._tokenizer = tokenizer
        self._max_tokens = checkpoint.model.max_tokens
        self.encoder = Encoder(
            tokenizer, checkpoint.model.max_tokens, max_windows, checkpoint.languages, refuses
        )
        self._begin, self._end = self.encoder.begin, self.encoder.end

    @classmethod
    def from_settings(cls, settings: EngineSettings) -> Self:
        """Load the checkpoint that ``settings`` choose, on the device that they choose.

        Raises :class:`CheckpointError` if the folder is missing, damaged or inconsistent, and
        :class:`SettingsError` if this machine does not have the device or the dtype, or if
        ``thresholds_file`` is not for this checkpoint.
        """
        load = partial(cls._from_settings, settings)
        # Which GPU is the current one, a new thread would not know.
        return load() if choose_device(settings).type == "cuda" else threads.in_passing(load)

    @classmethod
    def _from_settings(cls, settings: EngineSettings) -> Self:
        began = time.perf_counter()
        checkpoint = checkpoints.describe(choose_folder(settings))
        own = own_thresholds(checkpoint, settings)
        device = choose_device(settings)
        dtype = choose_dtype(settings, device)
        model = checkpoints.load_model(checkpoint, device, dtype, reorder=device.type == "cpu")
        tokenizer = checkpoints.load_tokenizer(checkpoint)
        refuses = settings.on_unread == "refuse"
        predictor = cls(checkpoint, model, tokenizer, settings.max_windows, refuses, own)
        predictor.log_start(time.perf_counter() - began)
        return predictor

    def log_start(self, load_seconds: float) -> None:
        """Log one line: what is served, on what, how much memory it takes, how long it loaded."""
        device = str(self.device)
        memory = {"memory_bytes": resident_bytes()}
        if self.device.type == "cuda":
            device += f" ({torch.cuda.get_device_name(self.device)})"
            memory["device_memory_bytes"] = torch.cuda.memory_allocated(self.device)
        log.info(
            "serving %s on %s in %s, %s, loaded in %.1f s",
            self.model_id,
            device,
            self.dtype,
            " and ".join(
                f"{size // MIB} MiB{' of the device' if name.startswith('device') else ''}"
                for name, size in memory.items()
            ),
            load_seconds,
            extra={
                FIELDS: {
                    "model": self.model_id,
                    "device": device,
                    "dtype": self.dtype,
                    **memory,
                    "load_seconds": round(load_seconds, 2),
                    **dataclasses.asdict(self.versions),
                }
            },
        )

    def encode(self, text: str) -> Encoded:
        """Normalise, tokenise and cut into windows.

        Raises :class:`ValidationError` if nothing visible is left, and :class:`TooLargeError` if
        the text needs more than ``max_windows`` windows.
        """
        return self.encoder.encode(text)

    def read(self, text: str, method: Explanation | None = None, robust: bool = False) -> Reading:
        """Read one text; see :data:`Reading` for what it yields, is sent and returns.

        The window with the lowest ``neutral`` speaks for the text, be it of the text as sent or,
        if that is ``robust``, of the folded one; with a ``method`` its words are explained. Raises
        the errors of :meth:`Encoder.read`, :class:`TooLargeError` if there are more than
        ``MAX_EXPLAINED_WORDS`` words to explain, and :class:`InternalError` if a probability is not
        finite.
        """
        encoded, *folded = self.encoder.read(text, robust)
        if method and len(encoded.windows) == 1:
            words_to_explain(text, 0, len(text))  # refuse before anything is computed
        rows = yield [*encoded.windows, *(window for each in folded for window in each.windows)]
        require_finite(rows)
        speaker = least_neutral(rows)
        scores = rows[speaker]
        read_as: ReadAs | None = None
        if speaker >= len(encoded.windows):
            speaker -= len(encoded.windows)
            (encoded,) = folded
            read_as = "folded"
        window = None
        if len(encoded.windows) > 1:
            window = self._locate(text, encoded, speaker, read_as)
        influences = None
        if method:
            span = window or (0, len(text))
            # A window that is cut out may tokenise a little differently at its ends, so it is read
            # once more, as it is cut.
            whole = None if window else scores
            encode = partial(self._encode_first, read_as=read_as)
            influences = yield from explain(text, span, method, encode, whole)
            require_finite([list(word.scores.values()) for word in influences])
        return Prediction(
            scores,
            len(encoded.windows),
            window,
            influences,
            read_as,
            encoded.warnings,
            encoded.language,
        )

    def _locate(
        self, text: str, encoded: Encoded, window: int, read_as: ReadAs | None
    ) -> tuple[int, int]:
        """Return the code points of the text as sent that a window covers."""
        span = encoded.spans[window]
        if read_as is None:
            return locate(text, encoded.normalized, *span)
        folded = fold_in_places(text)
        return folded.span(*locate(folded.text, encoded.normalized, *span))

    def _encode_first(self, text: str, read_as: ReadAs | None) -> list[int]:
        """Return the first window's token ids, even if the text is empty without a word."""
        read = text if read_as is None else fold(text)
        ids: list[int] = self._tokenizer.encode(normalize_tweet(read)).ids
        if len(ids) > self._max_tokens:
            ids = [*ids[: self._max_tokens - 1], self._end]
        return ids

    @torch.inference_mode()
    def probabilities(self, sequences: Sequences) -> Probabilities:
        """Score token sequences in one forward pass; return ``[sequences][labels]``.

        The softmax is in float32, whatever the dtype. A row that is not finite is returned as it
        is: ``read`` turns it into its text's error.
        """
        logits = self._model.forward_sequences(sequences)
        rows: Probabilities = torch.softmax(logits.float(), dim=-1).tolist()
        return rows

    def warm_up(self, max_batch_tokens: int) -> None:
        """Let libraries prepare what the first callers would otherwise wait for.

        On a CPU these are oneDNN's primitives for short texts, as many as ``WARM_UP_SECONDS``
        allow; on a GPU its kernels and the memory of a full batch. If the model cannot score,
        raises :class:`ServiceError` or the device's own exception.
        """
        warm_up = partial(self._warm_up, max_batch_tokens)
        warm_up() if self.device.type == "cuda" else threads.in_passing(warm_up)

    def _warm_up(self, max_batch_tokens: int) -> None:
        language.known_languages()  # loads the identifier
        # Not by score(): a checkpoint of other languages may refuse English.
        require_finite(self.probabilities(self.encode("good morning").windows))
        if self.device.type != "cpu":
            # Several lengths: a group with a mask runs other kernels than one of a single length.
            lengths = [56 + index % 9 for index in range(max(1, max_batch_tokens // 64))]
            fits = True
            try:
                self._measure(lengths)
            except torch.OutOfMemoryError:
                fits = False
            if not fits:  # outside the except block, which would keep the pass's tensors alive
                log.warning("MAX_BATCH_TOKENS=%d does not fit: lower it", max_batch_tokens)
                torch.cuda.empty_cache()
            return
        until = time.perf_counter() + WARM_UP_SECONDS
        for length in range(ROW_STEP, WARM_UP_TOKENS + 1, ROW_STEP):
            if time.perf_counter() > until:
                break
            self._measure([length])

    def _measure(self, lengths: Sequence[int]) -> None:
        sequences = [self._of_length(length) for length in lengths]
        began = time.perf_counter()
        self.probabilities(sequences)
        self.tokens_per_second = sum(map(len, sequences)) / (time.perf_counter() - began)

    def _of_length(self, tokens: int) -> list[int]:
        length = min(tokens, self._max_tokens)
        return [self._begin, *[self._end] * (length - 1)]

    def score(
        self,
        texts: Sequence[str],
        explain: Explanation | None = None,
        robust: bool = False,
        max_batch_tokens: int = 16_384,
        progress: Callable[[int], object] = lambda _texts: None,
    ) -> list[Prediction | ServiceError]:
        """Score a list offline; return a prediction or an error for each text, in order.

        ``progress`` is called with the number of texts finished since its last call.
        """
        results: list[Prediction | ServiceError] = [InternalError("not scored")] * len(texts)
        waiting: list[tuple[int, Reading, Sequences]] = []
        tokens = 0

        def flush() -> None:
            nonlocal tokens
            flat = [sequence for _, _, sequences in waiting for sequence in sequences]
            rows = iter(self._in_budget(flat, max_batch_tokens))
            again = []
            for index, reading, sequences in waiting:
                try:
                    more = reading.send([next(rows) for _ in sequences])
                    again.append((index, reading, more))
                except StopIteration as stop:
                    results[index] = stop.value
                except ServiceError as error:
                    results[index] = error
            progress(len(waiting) - len(again))
            waiting[:] = again
            tokens = sum(len(sequence) for _, _, more in again for sequence in more)

        for index, (reading, begun) in enumerate(self._begin_ahead(texts, explain, robust)):
            if isinstance(begun, ServiceError):
                results[index] = begun
                progress(1)
                continue
            needed = sum(map(len, begun))
            if waiting and tokens + needed > max_batch_tokens:
                flush()
            waiting.append((index, reading, begun))
            tokens += needed
        while waiting:
            flush()
        return results

    def _begin_ahead(
        self, texts: Sequence[str], explain: Explanation | None, robust: bool
    ) -> Iterator[tuple[Reading, Sequences | ServiceError]]:
        """Normalise and tokenise in a thread, a little ahead of the caller."""

        def begin(part: Sequence[str]) -> list[tuple[Reading, Sequences | ServiceError]]:
            return [begin_reading(self.read(text, explain, robust)) for text in part]

        if len(texts) <= READ_AT_ONCE:  # nothing could be read ahead; a thread costs a short text
            yield from begin(texts)
            return
        ahead: deque[Future[list[tuple[Reading, Sequences | ServiceError]]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="reader") as reader:
            try:
                for start in range(0, len(texts), READ_AT_ONCE):
                    ahead.append(reader.submit(begin, texts[start : start + READ_AT_ONCE]))
                    if len(ahead) > PARTS_AHEAD:
                        yield from ahead.popleft().result()
                while ahead:
                    yield from ahead.popleft().result()
            finally:
                reader.shutdown(wait=False, cancel_futures=True)  # the caller may have failed

    def _in_budget(self, sequences: Sequences, max_batch_tokens: int) -> Probabilities:
        """Score any number of sequences in passes of at most ``max_batch_tokens``."""
        rows: Probabilities = []
        start = tokens = 0
        for index, sequence in enumerate(sequences):
            if index > start and tokens + len(sequence) > max_batch_tokens:
                rows += self.probabilities(sequences[start:index])
                start, tokens = index, 0
            tokens += len(sequence)
        return rows + self.probabilities(sequences[start:]) if sequences else rows


def begin_reading(reading: Reading) -> tuple[Reading, Sequences | ServiceError]:
    """Start a reading; return it with its first sequences or the error of its text."""
    try:
        return reading, next(reading)
    except ServiceError as error:
        return reading, error


def spoken_for(rows: Probabilities, text: Readings) -> Prediction | ServiceError:
    """Return the prediction, without ``window``, from the probabilities of a text's windows."""
    try:
        require_finite(rows)
    except ServiceError as error:
        return error
    speaker = least_neutral(rows)
    if speaker < text.as_sent:
        return Prediction(rows[speaker], text.as_sent, None, None, warnings=text.warnings)
    windows = len(rows) - text.as_sent
    return Prediction(rows[speaker], windows, None, None, "folded", text.warnings)


def least_neutral(rows: Probabilities) -> int:
    """Return which row has the lowest ``neutral``, the first of equals."""
    return min(range(len(rows)), key=lambda index: rows[index][NEUTRAL])


def require_finite(rows: Probabilities) -> None:
    """Raise :class:`InternalError` for NaN or infinity, which JSON cannot hold."""
    if not all(map(math.isfinite, itertools.chain.from_iterable(rows))):
        raise InternalError("the model gave no finite score for this text")


def choose_folder(settings: EngineSettings) -> Path:
    """Return the checkpoint folder: the one asked for, else the published one, else the embedded.

    Raises :class:`CheckpointError` if the one asked for is not there.
    """
    if settings.model_id is not None:
        return hub_cache.find(settings.model_id, settings.hub_cache)
    if settings.model_dir is not None:
        if not settings.model_dir.is_dir():
            raise CheckpointError(f"MODEL_DIR={settings.model_dir} is not a folder")
        return hub_cache.snapshot_of(settings.model_dir)
    if paths.PUBLISHED.is_dir():
        return paths.PUBLISHED
    log.warning(
        "serving the small embedded checkpoint %s, which is for trying and testing, not for "
        "moderating; python download.py fetches BERTweet-large, MODEL_DIR chooses another",
        paths.EMBEDDED.name,
    )
    return paths.EMBEDDED


def choose_device(settings: EngineSettings) -> torch.device:
    """Return the device that the settings name; ``auto`` is the first GPU, else the CPU.

    Raises :class:`SettingsError` if this machine does not have it.
    """
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(settings.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"DEVICE={settings.device!r} is not allowed: there is no such device")
    return device


def choose_dtype(settings: EngineSettings, device: torch.device) -> torch.dtype:
    """Return the dtype that the settings name; ``auto`` is float16 on a GPU, float32 on a CPU.

    ``auto`` does not depend on the processor, so that scores do not change from one machine to the
    next. Raises :class:`SettingsError` if this machine does not have the dtype.
    """
    if settings.dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, settings.dtype)
    if dtype == torch.int8:
        if device.type != "cpu":
            raise SettingsError("DTYPE='int8' is not allowed: it runs on CPUs only")
        if not int8.is_exact():
            raise SettingsError(
                "DTYPE='int8' is not allowed: this processor has neither AVX512_VNNI nor AMX"
            )
    return dtype
