"""Vitals from trees like those of boards, with what their kernels and firmware document; nothing ran on a board."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize(
    ("says", "throttled"),
    [("echo throttled=0x50005", 0x50005), ("echo VCHI initialization failed", None), ("exit 1", None)],
)
def test_vcgencmd_where_only_that_can_tell(
    says: str, throttled: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text(f'#!/bin/sh\n[ "$1" = get_throttled ] && {says}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert read_vitals().throttled == throttled


def test_this_machine() -> None:
    vitals = read_vitals()
    assert 0.5 < vitals.memory_bytes / resident_bytes() < 2
