"""Processes that normalise and tokenise ahead of the device.

A reader is connected by one pipe. It exits when the pipe closes, so it does not outlive a run that
is killed. If a reader dies, the pipe shows it at once: it is replaced, and its texts are read
again.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Final

from hatespeech.bulk.engines.base import EngineError
from hatespeech.engine.encoder import Encoder, EncoderState, Readings
from hatespeech.errors import InternalError, ServiceError, describe_exception
from hatespeech.labels import WarningCode

log = logging.getLogger(__name__)

# Readers give way to the threads that compute; on idle cores this makes no difference.
NICENESS: Final = 10
DEAD: Final = "reader processes keep dying; is memory short? lower --readers and run again"


@dataclass(frozen=True)
class PackedTexts:
    """Token ids of texts, packed to travel between processes."""

    ids: bytes  # int32, token ids of all windows, end to end
    lengths: bytes  # int32, number of tokens of each window
    counts: bytes  # int32, number of windows of each text; 0 if the text has an error
    as_sent: bytes  # int32, how many of these are not of the folded text
    errors: dict[int, ServiceError]
    warnings: dict[int, tuple[WarningCode, ...]]  # of those texts that have any

    def __len__(self) -> int:
        return len(self.counts) // array("i").itemsize

    def unpack(self) -> list[Readings | ServiceError]:
        """Return each text's windows, or its error."""
        ids, lengths, counts, as_sent = array("i"), array("i"), array("i"), array("i")
        ids.frombytes(self.ids)
        lengths.frombytes(self.lengths)
        counts.frombytes(self.counts)
        as_sent.frombytes(self.as_sent)
        flat, window, start = ids.tolist(), 0, 0
        texts: list[Readings | ServiceError] = []
        for index, count in enumerate(counts):
            if not count:
                texts.append(self.errors[index])
                continue
            windows = []
            for length in lengths[window : window + count]:
                windows.append(flat[start : start + length])
                start += length
            window += count
            texts.append(Readings(windows, as_sent[index]))
        return texts


def read_texts(encoder: Encoder, texts: Sequence[str], robust: bool) -> PackedTexts:
    """Normalise and tokenise texts; a text that can't be read has its error instead."""
    ids, lengths, counts, as_sent = array("i"), array("i"), array("i"), array("i")
    errors: dict[int, ServiceError] = {}
    warnings: dict[int, tuple[WarningCode, ...]] = {}
    for index, text in enumerate(texts):
        try:
            readings = encoder.read(text, robust)
            if readings[0].warnings:
                warnings[index] = readings[0].warnings
        except ServiceError as error:
            errors[index] = error
            readings = []
        except Exception as exc:
            log.error("a text could not be read: %s", describe_exception(exc))
            errors[index] = InternalError("the text could not be read")
            readings = []
        windows = [window for reading in readings for window in reading.windows]
        counts.append(len(windows))
        as_sent.append(len(readings[0].windows) if readings else 0)
        for window in windows:
            lengths.append(len(window))
            ids.extend(window)
    return PackedTexts(
        ids.tobytes(), lengths.tobytes(), counts.tobytes(), as_sent.tobytes(), errors, warnings
    )


def read_until_closed(connection: Connection, state: EncoderState) -> None:
    """Read the texts that come through the pipe until it closes; a reader's main function."""
    # On any error the pipe closes, which the other end sees. A traceback might quote a text.
    with contextlib.suppress(BaseException):
        os.nice(NICENESS)
        encoder = Encoder.from_state(state)
        connection.send(None)  # ready
        while True:
            connection.send(read_texts(encoder, *connection.recv()))


class ReaderProcess:
    """One reader, as the run's process sees it."""

    def __init__(self, state: EncoderState) -> None:
        self._state = state
        self._ready = False
        self._ended = False
        self._changing = threading.Lock()  # held while one process replaces another
        self._start()

    def wait(self) -> None:
        """Wait until the process is ready; raises as :meth:`read` does."""
        if not self._ready:
            self._connection.recv()
            self._ready = True

    def read(self, texts: Sequence[str], robust: bool) -> PackedTexts:
        """Have texts read; raise :class:`EOFError` or :class:`OSError` if the process is dead."""
        self.wait()
        self._connection.send((texts, robust))
        found = self._connection.recv()
        assert isinstance(found, PackedTexts)  # noqa: S101 - for mypy: a reader sends nothing else
        return found

    def restart(self) -> None:
        """Replace a dead process by a new one; raise :class:`EOFError` after :meth:`stop`."""
        with self._changing:
            if self._ended:
                raise EOFError
            self._stop()
            self._start()

    def stop(self) -> None:
        """End the process and start no other."""
        with self._changing:
            self._ended = True
            self._stop()

    def _stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # Python waits for a process that is not a daemon when it exits.
        self._process = context.Process(
            target=read_until_closed, args=(theirs, self._state), daemon=True
        )
        resource_tracker.ensure_running()  # started below, it would undo the signal mask
        with _interrupts_blocked():
            self._process.start()
        theirs.close()
        self._ready = False


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Make processes started inside ignore Ctrl-C, which a terminal sends to them, too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ReaderPool:
    """Several readers, each with a thread here that waits for it; without any, reads texts here."""

    def __init__(self, encoder: Encoder, count: int) -> None:
        self._encoder = encoder
        self._closed = False
        self._idle: SimpleQueue[ReaderProcess] = SimpleQueue()
        self._all = [ReaderProcess(encoder.state()) for _ in range(count)]
        try:
            for reader in self._all:
                reader.wait()
                self._idle.put(reader)
        except (EOFError, OSError):
            raise EngineError(DEAD) from None
        self._threads = ThreadPoolExecutor(max(count, 1), thread_name_prefix="reader")

    def submit(self, texts: Sequence[str], robust: bool) -> Future[PackedTexts]:
        """Have texts read; the future may raise :class:`EngineError`."""
        if self._all:
            return self._threads.submit(self._read, texts, robust)
        done: Future[PackedTexts] = Future()
        done.set_result(read_texts(self._encoder, texts, robust))
        return done

    def close(self) -> None:
        """End all processes; texts that they were reading are dropped."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for reader in self._all:
            reader.stop()
        self._threads.shutdown()
        self._all = []

    def _read(self, texts: Sequence[str], robust: bool) -> PackedTexts:
        reader = self._idle.get()
        try:
            try:
                return reader.read(texts, robust)
            except (EOFError, OSError):
                if self._closed:
                    raise
                reader.restart()
            return reader.read(texts, robust)
        except (EOFError, OSError):
            raise EngineError(DEAD) from None
        finally:
            self._idle.put(reader)
