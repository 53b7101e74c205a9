"""Progress bars, of a command and of a process that nobody watches."""

from __future__ import annotations

import pytest

from hatespeech import bars


def test_hidden_bar_takes_what_a_shown_one_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bars._Bars, "hidden", False)
    for hidden in (False, True):
        if hidden:
            bars.hide_bars()
        with bars.progress_bar("scoring", 10, "rows", done=3) as shown:
            shown.initial += 2
            shown.update(2)
        assert bool(capsys.readouterr().err) is not hidden
