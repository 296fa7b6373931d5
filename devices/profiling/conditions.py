"""What else goes on while something is measured: who else computes, and how the clock is governed."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from edgernn.errors import UsageError
from edgernn.measured import Conditions

__all__ = ["Background", "pin"]

BEFORE_S = 0.5


def pin(core: int) -> None:
    """Keep this process and its children on one core."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    if core not in allowed:
        raise UsageError(f"--pin {core}: this process may use the cores {', '.join(map(str, sorted(allowed)))}")
    os.sched_setaffinity(0, {core})


class Background:
    """Watches from its making to `conditions()`: a half second before the measurement, and all of it."""

    def __init__(self, pinned: int | None = None, root: Path = Path("/")) -> None:
        self._root, self._pinned = root, pinned
        self._load = _load()
        busy, total = self._ticks()
        time.sleep(BEFORE_S)
        self._busy, self._total = self._ticks()
        self._before = _share(self._busy - busy, self._total - total)
        self._own = _own_ticks()

    def conditions(self) -> Conditions:
        """Return what was seen until now."""
        busy, total = self._ticks()
        others = _share(busy - self._busy - (_own_ticks() - self._own), total - self._total)
        return Conditions(self._pinned, self._governors(), self._load, self._before, others)

    def _governors(self) -> tuple[str, ...]:
        files = sorted((self._root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
        found = []
        for path in files:
            with contextlib.suppress(OSError):
                found.append(path.read_text(encoding="ascii").strip())
        return tuple(dict.fromkeys(found))

    def _ticks(self) -> tuple[float, float]:
        """Return how many ticks all cores were busy, and how many there were."""
        with contextlib.suppress(OSError, ValueError):
            line = (self._root / "proc/stat").read_text(encoding="ascii").partition("\n")[0].split()
            user, nice, system, idle, waits, *rest = map(float, line[1:9])
            return user + nice + system + sum(rest), user + nice + system + idle + waits + sum(rest)
        return 0.0, 0.0


def _own_ticks() -> float:
    times = os.times()
    seconds = times.user + times.system + times.children_user + times.children_system
    return seconds * os.sysconf("SC_CLK_TCK")


def _share(part: float, whole: float) -> float | None:
    return round(min(1.0, max(0.0, part / whole)), 3) if whole > 0 else None


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None
