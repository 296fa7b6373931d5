"""How a board is just now: how hot, whether slowed down, how fast, and how much memory this process takes.

Run on a plain PC only. What a Raspberry Pi gives is read as its firmware's documentation says, and tested on a tree of
files like a board's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgernn.devices.boards.tools import Ask, ask
from edgernn.machine import resident_bytes

__all__ = ["Vitals", "read_vitals"]

THROTTLED = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
"""Bits of a Raspberry Pi's firmware; 16 above each is the one that says whether it ever was so since the start."""
FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"
OF_THE_PROCESSOR = ("cpu", "soc", "pkg", "core")  # parts of the names of thermal zones


@dataclass(frozen=True)
class Vitals:
    """What is None is not told by this machine."""

    temperature_c: float | None
    """Of the processor, its hottest part; of whatever is hottest, where no zone is named after the processor."""
    throttled: int | None
    """A Raspberry Pi's bits (`THROTTLED`)."""
    memory_bytes: int
    """What this process has in RAM."""
    clock_hz: int | None
    """Of the fastest core at this moment."""

    def limits(self, since_start: bool = False) -> dict[str, bool] | None:
        """Return whether each of `THROTTLED` holds now, or has held since the board started.

        >>> Vitals(61.0, 0x50001, 10**7, None).limits()["under-voltage"]
        True
        >>> Vitals(61.0, 0x50000, 10**7, None).limits(since_start=True)["throttled"]
        True
        """
        if self.throttled is None:
            return None
        shift = 16 if since_start else 0
        return {name: bool(self.throttled >> (bit + shift) & 1) for bit, name in THROTTLED.items()}


def read_vitals(root: Path = Path("/"), asking: Ask | None = None) -> Vitals:
    """Read /sys and /proc below `root`, and ask the board's programs: on the machine itself, unless told how."""
    asking = asking or (ask if root == Path("/") else _nobody)
    return Vitals(_temperature(root), _throttled(root, asking), resident_bytes(root), _clock(root))


def _nobody(words: Sequence[str]) -> None:
    """Answer as a board without any program."""


def _throttled(root: Path, asking: Ask) -> int | None:
    """Return the bits of the kernel's file and those of `vcgencmd`: there are kernels whose file always says 0.

    A service that is fenced in has the file alone.
    """
    by_kernel = _number(root / FIRMWARE, 16)
    found = re.search(r"throttled=0x([0-9a-f]+)", asking(["vcgencmd", "get_throttled"]) or "")
    if found is None:
        return by_kernel
    return (by_kernel or 0) | int(found[1], 16)


def _temperature(root: Path) -> float | None:
    zones = {zone: _number(zone / "temp") for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"))}
    found = {zone: value / 1000 for zone, value in zones.items() if value is not None}
    named = [value for zone, value in found.items() if any(part in _text(zone / "type") for part in OF_THE_PROCESSOR)]
    return max(named or found.values(), default=None)


def _clock(root: Path) -> int | None:
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    kilohertz = [value for value in map(_number, files) if value is not None]
    return max(kilohertz) * 1000 if kilohertz else None


def _number(path: Path, base: int = 10) -> int | None:
    try:
        return int(_text(path), base)
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip().lower()
    except OSError:  # a zone that is switched off cannot be read
        return ""
