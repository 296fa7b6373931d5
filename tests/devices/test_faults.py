"""The benchmark of faults in short, with a small artifact: each fault a few times (`make faults` injects fifty)."""

from __future__ import annotations

import os
import shutil
import wave
from pathlib import Path

import pytest

from edgernn.artifact import Artifact
from tests.benchmarks.faults.__main__ import FAULTS, main
from tests.devices.needs import SINCE, skip_without
from tests.devices.test_microphone import TOOLS
from tests.devices.test_serve import RATE, pcm
from tests.devices.test_store import certify

TIMES = {"microphone": 1, "artifact": 5}  # five: one of them at a start
NEEDS = {
    "broker": ("mosquitto",), "clock": ("mosquitto",), "malformed": ("mosquitto",), "microphone": TOOLS,
}  # fmt: skip
PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost(
    fault: str, energy_artifact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = [tool for tool in NEEDS.get(fault, ()) if not shutil.which(tool, path=PLACES)]
    skip_without(missing, ", ".join(missing))
    if fault.startswith("disk") and os.geteuid():
        pytest.skip(f"{SINCE}: only root mounts a small disk")
    certify(energy_artifact)
    recording = tmp_path / "sound.wav"
    with wave.open(str(recording), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(pcm(3))
    words = ["--artifact", str(energy_artifact.path), "--recording", str(recording)]
    status = main(["--only", fault, "--times", str(TIMES.get(fault, 2)), *words])
    table = capsys.readouterr().out
    print(table)
    skip_without("libfaketime" in table, "libfaketime")
    assert status == 0
