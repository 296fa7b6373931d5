"""Vitals from trees like those of boards, with what their kernels and firmware document; nothing ran on a board."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgernn.devices.boards.vitals import Vitals, read_vitals
from edgernn.machine import resident_bytes

PI = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "61835\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "600000\n",
}
JETSON = {
    "sys/class/thermal/thermal_zone0/type": "CPU-therm\n",
    "sys/class/thermal/thermal_zone0/temp": "45500\n",
    "sys/class/thermal/thermal_zone1/type": "GPU-therm\n",
    "sys/class/thermal/thermal_zone1/temp": "52000\n",
    "sys/class/thermal/thermal_zone2/type": "PMIC-Die\n",
    "sys/class/thermal/thermal_zone2/temp": "100000\n",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_raspberry_pi(tmp_path: Path) -> None:
    vitals = read_vitals(tree(tmp_path, PI))
    assert (vitals.temperature_c, vitals.throttled, vitals.clock_hz) == (61.835, 0x50005, 1_500_000_000)
    now, ever = vitals.limits(), vitals.limits(since_start=True)
    assert now == {"under-voltage": True, "frequency capped": False, "throttled": True, "soft temperature limit": False}
    assert ever == now


def test_jetson_is_as_hot_as_its_processor(tmp_path: Path) -> None:
    assert read_vitals(tree(tmp_path, JETSON)) == Vitals(45.5, None, 0, None)


def test_zones_that_cannot_be_read(tmp_path: Path) -> None:
    tree(tmp_path, {**JETSON, "sys/class/thermal/thermal_zone0/temp": "\n"})
    (tmp_path / "sys/class/thermal/thermal_zone1/temp").unlink()
    assert read_vitals(tmp_path).temperature_c == 100.0
    assert read_vitals(tmp_path / "nowhere") == Vitals(None, None, 0, None)


# `vcgencmd get_throttled` of a Pi 3B+ whose kernel's file says 0 (github.com/raspberrypi/linux/issues/2367), of a Pi 3
# (github.com/raspberrypi/firmware/issues/615), and where it may not open /dev/vcio
@pytest.mark.parametrize(
    ("by_kernel", "told", "throttled"),
    [
        ("0\n", "throttled=0x80008\n", 0x80008),
        ("50000\n", "throttled=0x50005\n", 0x50005),
        ("50005\n", None, 0x50005),
        ("50005\n", "VCHI initialization failed\n", 0x50005),
        (None, "throttled=0x50005\n", 0x50005),
        (None, "VCHI initialization failed\n", None),
        (None, None, None),
    ],
)
def test_throttled_by_kernel_and_by_firmware(
    by_kernel: str | None, told: str | None, throttled: int | None, tmp_path: Path
) -> None:
    if by_kernel is not None:
        tree(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": by_kernel})
    asked: list[Sequence[str]] = []

    def asking(words: Sequence[str]) -> str | None:
        asked.append(words)
        return told

    assert read_vitals(tmp_path, asking).throttled == throttled
    assert asked == [["vcgencmd", "get_throttled"]]


def test_vcgencmd_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text('#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x50005\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert read_vitals().throttled == 0x50005
    assert read_vitals(tmp_path).throttled is None, "a tree of files has no programs"


def test_this_machine() -> None:
    vitals = read_vitals()
    assert 0.5 < vitals.memory_bytes / resident_bytes() < 2
