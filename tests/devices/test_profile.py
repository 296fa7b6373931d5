from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgernn.artifact import Artifact
from edgernn.devices import measure as measuring
from edgernn.devices.measure import measure
from edgernn.devices.profile import main as profile_main
from edgernn.errors import UsageError
from edgernn.machine import describe_machine, int8_overflows, resident_bytes
from edgernn.profile import Profile
from edgernn.stream import Runner
from edgernn.testing import FakeRunner

EDGERNN = [sys.executable, "-c", "import sys; from edgernn.cli import main; sys.exit(main())"]


def test_command_writes_text_json_and_picture(energy_artifact: Artifact, tmp_path: Path) -> None:
    kept, picture = tmp_path / "profile.json", tmp_path / "profile.png"
    words = ["--steps", "300", "--seconds", "0.5", "--rounds", "1", "--json", str(kept), "--picture", str(picture)]
    result = subprocess.run(
        [*EDGERNN, "profile", str(energy_artifact.path), *words], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    profile = Profile.from_dict(json.loads(kept.read_text()))
    assert [(timing.name, timing.count) for timing in profile.timings] == [
        ("step", 300),
        ("step, paced", 50),
        ("due to done", 50),
        ("front end", 300),
    ]
    assert profile.import_ms > 1  # nothing had imported the runtime before
    assert profile.runtime_bytes > 2**20
    assert profile.period_us == pytest.approx(10_000)
    assert "deadline misses" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--steps", "0", "--steps must be at least 1, not 0"),
        ("--seconds", "-1", "--seconds must be a number of seconds, 0 or more, not -1"),
        ("--seconds", "nan", "--seconds must be a number of seconds, 0 or more, not nan"),
    ],
)
def test_numbers_that_make_no_sense(option: str, value: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        profile_main(["energy", option, value], "edgernn profile")


def test_late_steps_are_counted(energy_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(FakeRunner):
        steps = 0

        def step(self, *frames: Any) -> Any:
            self.steps += 1
            if self.steps > measuring.WARM_UP_STEPS + 2 and self.steps % 10 == 0:
                time.sleep(0.025)  # more than two periods: the one after it is late too
            return super().step(*frames)

    def open_slow(*_: Any) -> Runner:
        return Slow(features=40)

    monkeypatch.setattr(measuring, "open_model", open_slow)
    profile, times = measure(energy_artifact, steps=1, seconds=0.4)
    assert 8 <= profile.deadline_misses <= 40
    assert profile.deadline_misses_per_million == 1e6 * profile.deadline_misses / 40
    assert times["due to done"].max() > 20_000
    assert np.median(times["step, paced"]) < 10_000


def test_artifact_without_frame_rate_has_no_pace(energy_artifact: Artifact) -> None:
    bare = dataclasses.replace(energy_artifact, frame_rate_hz=None, front_end=None)
    profile, times = measure(bare, steps=10, seconds=1)
    assert list(times) == ["step"]
    assert (profile.period_us, profile.real_time_factor) == (None, None)


def test_machine_is_what_the_kernel_tells(tmp_path: Path) -> None:
    for path, text in {
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\x00",
        "proc/cpuinfo": "processor\t: 0\nCPU part\t: 0xd0b\n",
        "sys/class/thermal/thermal_zone0/temp": "48850\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    machine = describe_machine(tmp_path)
    assert (machine.board, machine.cpu) == ("Raspberry Pi 5 Model B Rev 1.0", "CPU part 0xd0b")
    assert (machine.governor, machine.temperature_c) == ("ondemand", 48.85)
    pi = "CPU implementer\t: 0x41\nCPU part\t: 0xd08\n\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
    (tmp_path / "proc/cpuinfo").write_text(pi)
    (tmp_path / "proc/device-tree/model").unlink()
    base = tmp_path / "sys/firmware/devicetree/base/model"  # which /proc/device-tree points to
    base.parent.mkdir(parents=True)
    base.write_text("Raspberry Pi 4 Model B Rev 1.4\x00")
    machine = describe_machine(tmp_path)
    assert (machine.board, machine.cpu) == ("Raspberry Pi 4 Model B Rev 1.4", "Cortex-A72")
    base.unlink()
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nmodel name\t: Intel(R)  Atom\n")
    assert describe_machine(tmp_path).cpu == "Intel(R) Atom"
    assert describe_machine(tmp_path / "nothing").board == ""
    assert resident_bytes(tmp_path) == 0
    assert resident_bytes() > 10_000_000


def test_int8_may_overflow_on_x86_without_vnni(tmp_path: Path) -> None:
    assert int8_overflows(tmp_path, "x86_64"), "nobody tells"
    assert not int8_overflows(tmp_path, "aarch64")
    (tmp_path / "proc").mkdir()
    for flags, overflows in (("avx2 avx512f", True), ("avx2 avx_vnni", False), ("avx512f avx512_vnni", False)):
        (tmp_path / "proc/cpuinfo").write_text(f"flags\t\t: fpu {flags}\n")
        assert int8_overflows(tmp_path, "x86_64") == overflows
