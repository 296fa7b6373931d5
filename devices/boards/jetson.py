"""What NVIDIA's tools say on a Jetson: read as recorded output and the documentation have it; not run on hardware."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Tegrastats", "highest_mode", "power_mode", "read_release", "read_tegrastats"]

ABSENT_C = -200.0  # below this, a sensor is switched off


def read_release(text: str) -> str:
    """Return the version of Jetson Linux that /etc/nv_tegra_release tells, "" if it tells none.

    >>> read_release("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64")
    'R35.4.1'
    """
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"R{found[1]}.{found[2]}" if found else ""


def power_mode(told: str) -> str:
    r"""Return the mode that `nvpmodel -q` tells, "" if it tells none.

    >>> power_mode("NV Power Mode: 15W\n0\n")
    '15W'
    """
    found = re.search(r"NV Power Mode: *(\S+)", told)
    return found[1] if found else ""


def highest_mode(configuration: str) -> str | None:
    """Return the number of the mode without limits in /etc/nvpmodel.conf, which is not 0 on every board.

    >>> highest_mode("< POWER_MODEL ID=0 NAME=15W >\\n...\\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >")
    '2'
    """
    modes: Mapping[str, str] = {
        name: number for number, name in re.findall(r"POWER_MODEL ID=(\d+) NAME=(\S+)", configuration)
    }
    return next((modes[name] for name in sorted(modes, reverse=True) if name.startswith("MAXN")), None)


@dataclass(frozen=True)
class Tegrastats:
    """One line of `tegrastats`."""

    temperatures_c: Mapping[str, float]
    power_mw: Mapping[str, int]
    """By rail, at this moment."""
    gpu_percent: int | None
    cores_off: int


def read_tegrastats(told: str) -> Tegrastats | None:
    """Read the first line of what `tegrastats` wrote; None where it is none."""
    line = next((line for line in told.splitlines() if "RAM " in line), None)
    if line is None:
        return None
    heat = {name: float(value) for name, value in re.findall(r"(\w+)@(-?[\d.]+)C\b", line)}
    power = {name: int(value) for name, value in re.findall(r"\b((?:VDD|VIN|POM)_\w+) (\d+)(?:mW)?/\d+", line)}
    load = re.search(r"GR3D_FREQ (\d+)%", line)
    cores = re.search(r"CPU \[([^\]]*)\]", line)
    return Tegrastats(
        {name: value for name, value in heat.items() if value > ABSENT_C},
        power,
        int(load[1]) if load else None,
        cores[1].split(",").count("off") if cores else 0,
    )
