"""What a board draws, where it has a sensor: hwmon, which is also how a Jetson's INA3221 appears.

Not run on such hardware: read as the kernel's documentation of hwmon and of the INA3221 says (power in microwatts,
voltage in millivolts, current in milliamperes), and tested on trees of files like a board's.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["read_power_w"]

WHOLE_BOARD = ("vdd_in", "pom_5v_in", "vin_sys_5v0", "vin", "total")  # names of the rail that all others hang on


def read_power_w(root: Path = Path("/")) -> float | None:
    """Return watts: of the rail that feeds the whole board, or else the sum of all rails; None without a sensor."""
    rails: dict[str, float] = {}
    for sensor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        rails |= {f"{sensor.name} {rail}": watts for rail, watts in _rails(sensor).items()}
    for name, watts in rails.items():
        if name.partition(" ")[2] in WHOLE_BOARD:
            return watts
    return sum(rails.values()) if rails else None


def _rails(sensor: Path) -> dict[str, float]:
    """Return watts by the name of the rail."""
    found: dict[str, float] = {}
    for path in sorted(sensor.glob("power*_input")):
        microwatts = _number(path)
        if microwatts is not None:
            found[_label(sensor, path.name.removesuffix("_input"))] = microwatts / 1e6
    for path in sorted(sensor.glob("curr*_input")):
        number = (re.findall(r"\d+", path.name) or [""])[0]
        millivolts, milliamperes = _number(sensor / f"in{number}_input"), _number(path)
        if millivolts is not None and milliamperes is not None:
            found.setdefault(_label(sensor, f"in{number}"), millivolts * milliamperes / 1e6)
    return found


def _label(sensor: Path, channel: str) -> str:
    return _text(sensor / f"{channel}_label").lower() or channel


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:  # a sensor that is asleep cannot be read
        return ""
