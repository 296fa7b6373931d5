"""The daemon on a virtual microphone that goes away, as when it is unplugged, and comes back."""

from __future__ import annotations

import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgernn.artifact import Artifact
from tests.devices.test_microphone import VirtualMicrophone, pytestmark
from tests.devices.test_serve import Daemon, events, write_config

__all__ = ["pytestmark"]


def wait_until(true: Callable[[], bool], within_s: float) -> float:
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < within_s
        time.sleep(0.05)
    return time.monotonic() - begin


def test_microphone_that_goes_and_comes_back(tmp_path: Path, energy_artifact: Artifact) -> None:
    write_config(tmp_path)
    sound = tmp_path / "loud.wav"
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(0).normal(0, 3000, 8000).astype("<i2").tobytes())
    microphone = VirtualMicrophone(tmp_path / "pulse")
    daemon = Daemon(tmp_path, "--set", "pipeline.hall.source=mic:pulse", **microphone.environment)
    try:
        daemon.wait_for("READY=1", 20)
        for round_ in range(3):
            daemon.wait_for("STATUS=hall running", 20)
            time.sleep(1.5)
            told = len(events(tmp_path)) if (tmp_path / "events.jsonl").exists() else 0
            microphone.play(sound)
            wait_until(lambda told=told: len(events(tmp_path)) > told, 5)  # type: ignore[misc]
            if round_ < 2:
                microphone.close()
                daemon.wait_for("STATUS=hall reopening", 12)
                time.sleep(1.0)
                microphone = VirtualMicrophone(tmp_path / "pulse")
        assert daemon.end() < 2
    finally:
        print((tmp_path / "log").read_text())
        daemon.close()
        microphone.close()
