"""The microphone path for real: PulseAudio's null sink plays into PortAudio, and words come out of the command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgernn.artifact import Artifact
from tests.devices.needs import needs

TOOLS = ("pulseaudio", "pacat", "paplay")
EDGERNN = [sys.executable, "-W", "error", "-c", "import sys; from edgernn.cli import main; sys.exit(main())"]
missing = [tool for tool in TOOLS if not shutil.which(tool)]

pytestmark = [
    pytest.mark.slow,
    needs(missing, f"{', '.join(missing)} (sudo apt install pulseaudio pulseaudio-utils libasound2-plugins)"),
]

CONFIGURATION = """
load-module module-native-protocol-unix socket={socket} auth-anonymous=1
load-module module-null-sink sink_name=mic rate=16000 channels=1
set-default-sink mic
set-default-source mic.monitor
"""


class VirtualMicrophone:
    """A PulseAudio server of its own, whose default microphone hears what is played."""

    def __init__(self, folder: Path) -> None:
        self._processes = ExitStack()
        run = folder / "run" / "pulse"
        for path in (run, folder / "run" / "state", folder / "home"):
            path.mkdir(parents=True, mode=0o700, exist_ok=True)
        socket = run / "native"
        socket.unlink(missing_ok=True)
        self.environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "PULSE_RUNTIME_PATH": str(run),
            "PULSE_STATE_PATH": str(folder / "run" / "state"),
            "PULSE_COOKIE": str(folder / "run" / "cookie"),
            "PULSE_SERVER": f"unix:{socket}",
            "HOME": str(folder / "home"),
        }
        (folder / "mic.pa").write_text(CONFIGURATION.format(socket=socket))
        self._start(
            *("pulseaudio", "-n", "-F", str(folder / "mic.pa"), "--daemonize=no", "--exit-idle-time=-1"),
            *("--use-pid-file=no", "--disallow-exit"),
        )
        deadline = time.monotonic() + 20
        while not socket.exists():
            assert time.monotonic() < deadline, "PulseAudio did not start"
            time.sleep(0.1)
        # Without something that plays all the time, the monitor begins to record late.
        self._start(
            *("pacat", "--device=mic", "--rate=16000", "--channels=1", "--format=s16le", "--latency-msec=20"),
            "/dev/zero",
        )

    def _start(self, *command: str) -> None:
        process = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._processes.enter_context(process)
        self._processes.callback(process.kill)

    def play(self, path: Path) -> None:
        """Play a recording to its end."""
        command = ["paplay", "--device=mic", "--latency-msec=20", str(path)]
        subprocess.run(command, env=self.environment, check=True, timeout=60)

    def close(self) -> None:
        self._processes.close()


@pytest.fixture
def microphone(tmp_path: Path) -> Iterator[VirtualMicrophone]:
    virtual = VirtualMicrophone(tmp_path / "pulse")
    yield virtual
    virtual.close()


def hear(microphone: VirtualMicrophone, artifact: Path, recording: Path, *words: str) -> tuple[list[Any], str]:
    """Run the command on the virtual microphone while a recording is played; return the events and stderr."""
    with subprocess.Popen(
        [*EDGERNN, "run", str(artifact), "--source", "mic:pulse", "--sink", "json:", *words],
        env=microphone.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        greeting = ""
        while "Ctrl-C" not in greeting:
            line = process.stderr.readline()
            assert line, greeting  # it ended: the microphone could not be opened
            greeting += line
        time.sleep(3.0)  # PulseAudio begins to deliver about a second after it was asked
        microphone.play(recording)
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
        assert process.returncode == 0, greeting + stderr
    return [json.loads(line) for line in stdout.splitlines()], stderr


def test_what_is_played_is_heard(microphone: VirtualMicrophone, energy_artifact: Artifact, tmp_path: Path) -> None:
    quiet, loud = np.zeros(16000), np.random.default_rng(0).normal(0, 3000, 8000)
    path = tmp_path / "two.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(np.concatenate([loud, quiet, quiet, loud, quiet]).astype("<i2").tobytes())
    events, summary = hear(microphone, energy_artifact.path, path)
    times = [event["end_s"] for event in events if event["end_s"] > 1.0]
    assert len(times) == 2, (events, summary)
    assert 2.0 < times[1] - times[0] < 3.0  # 2.5 s in the recording
    assert ", 0 samples lost, " in summary


PRETRAINED = Path(__file__).parent.parent.parent / "train" / "pretrained"


def test_words_that_are_spoken_come_out(microphone: VirtualMicrophone, keyword_artifact: Path) -> None:
    spoken = json.loads((PRETRAINED / "samples" / "demo.json").read_text())["words"]
    labels = Artifact.open(keyword_artifact).labels
    expected = [entry["word"] for entry in spoken if entry["word"] in labels]
    events, summary = hear(microphone, keyword_artifact, PRETRAINED / "samples" / "demo.wav")
    heard = [event["word"] for event in events]
    right = [word for word in expected if word in heard]
    assert len(right) >= len(expected) - 2, (expected, heard)
    assert len(heard) <= len(expected) + 2, (expected, heard)
    assert [word for word in heard if word in right] == right  # in the order in which they were said
    assert ", 0 samples lost, " in summary
