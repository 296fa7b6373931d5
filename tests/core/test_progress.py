from __future__ import annotations

import io
import re
import time

import pytest

from edgernn.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_has_a_line_for_each_stage() -> None:
    log = io.StringIO()
    with Progress(log) as progress:
        progress("one")
        assert log.getvalue() == "  one …\n", "at once: who waits wants to know for what"
        progress("two")
    assert log.getvalue() == "  one …\n  two …\n"


def test_on_a_terminal_the_seconds_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgernn.progress.PATIENCE_S", 0.05)
    terminal = Terminal()
    with Progress(terminal) as progress:
        progress("one")
        until = time.monotonic() + 10
        while len(re.findall(r"\r  one … \d s", terminal.getvalue())) < 3:
            assert time.monotonic() < until, terminal.getvalue()
            time.sleep(0.01)
        progress("two")
    first, second, rest = [line.rpartition("\r")[2] for line in terminal.getvalue().split("\n")]
    assert re.fullmatch(r"  one … \d s\x1b\[K", first)
    assert (second, rest) == ("  two …\x1b[K", "")


def test_an_error_ends_the_line() -> None:
    terminal = Terminal()
    with pytest.raises(ValueError, match="no"), Progress(terminal) as progress:  # noqa: PT012
        progress("one")
        raise ValueError("no")
    assert terminal.getvalue().endswith("\n")


def test_quiet_is_quiet() -> None:
    terminal = Terminal()
    with Progress(terminal, quiet=True) as progress:
        progress("one")
    assert terminal.getvalue() == ""
