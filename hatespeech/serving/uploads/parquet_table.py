"""Parquet, which another process reads and writes: this one never decodes what strangers send."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from typing_extensions import override

from hatespeech.contract import COLUMNS, TextScore
from hatespeech.formats.limited_process import LimitedProcess
from hatespeech.serving.uploads.table import UploadTable

PROCESS: Final = "hatespeech.serving.uploads.parquet_process"


class Parquet(UploadTable):
    """Parquet with a string column ``text``.

    :class:`TooLargeError` of any method means that the process needed more memory than it may have.
    """

    media_type = "application/vnd.apache.parquet"
    suffix = "parquet"
    _process: LimitedProcess | None = None

    @override
    def check(self) -> None:
        limits = self._limits
        process = LimitedProcess(
            PROCESS,
            self._file,
            limits.process_bytes,
            {"rows": limits.chunk_rows, "max_rows": limits.max_rows},
        )
        with self._closing:
            if self._closed:
                process.close()
            self._process = process
        process.call("check")

    @override
    def chunks(self) -> Iterator[tuple[Any, list[Any]]]:
        while (texts := self._call("next")) is not None:
            yield None, texts

    @override
    def write(self, rows: Any, items: Sequence[TextScore]) -> bytes:
        values = [item.columns() for item in items]
        data: bytes = self._call("write", {name: [row[name] for row in values] for name in COLUMNS})
        return data

    @override
    def end(self) -> bytes:
        data: bytes = self._call("end")
        return data

    @override
    def close(self) -> None:
        super().close()
        if self._process is not None:
            self._process.close()

    def _call(self, name: str, argument: object = None) -> Any:
        assert self._process is not None  # noqa: S101 - check starts it
        return self._process.call(name, argument)
