"""Work that may crash or never end, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["last_line", "run_child"]


def run_child(module: str, arguments: Sequence[str], patience_s: float) -> subprocess.CompletedProcess[str]:
    """Run a module of this package; return how it ended. Raises `subprocess.TimeoutExpired`, the process being stopped.

    The folder that the user is in is not searched for modules (Python 3.11 and later): models from elsewhere may lie
    there, and code beside them.
    """
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True, text=True, errors="replace", timeout=patience_s, check=False,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )  # fmt: skip


def last_line(text: str) -> str:
    """Return the last line that tells of an error, or else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line or "Error" in line]
    return (errors or lines or ["it gave no reason"])[-1][:400]
