"""HTML pages that the commands write."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

# When a run finished, and how long it took, in its receipt and in its report.
TIME: Final = r'"(finished|scored|seconds)": .*?\n|<dt>(finished|duration)<.*?</dd>'


def without_time(path: Path) -> str:
    """Return a receipt or a report of bulk scoring but for the time and the duration."""
    return re.sub(TIME, "", path.read_text(encoding="utf-8"))


class Page(HTMLParser):
    """The tags of a page, each closed as it was opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
