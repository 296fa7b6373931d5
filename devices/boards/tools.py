"""Asking a board's own programs, none of which need be there."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence

__all__ = ["Ask", "ask"]

Ask = Callable[[Sequence[str]], str | None]
"""Runs a program; returns what it wrote to standard output, None where there is no such program or it failed."""
WAIT_S = 3.0
ENDLESS = ("tegrastats",)  # which goes on until it is killed
ENDLESS_S = 1.5


def ask(words: Sequence[str]) -> str | None:
    """See `Ask`."""
    program = shutil.which(words[0])
    if program is None:
        return None
    endless = words[0] in ENDLESS
    try:
        told = subprocess.run(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=ENDLESS_S if endless else WAIT_S,
        )
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode(errors="replace") if endless else None
    except OSError:
        return None
    return told.stdout.decode(errors="replace") if told.returncode == 0 else None
