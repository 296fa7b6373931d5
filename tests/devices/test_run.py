"""The command as its user runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from termios import FIONREAD
from typing import Any

import numpy as np
import pytest

from edgernn.artifact import MANIFEST, Artifact
from edgernn.cli import main
from tests.devices.mosquitto import until

EDGERNN = [sys.executable, "-W", "error", "-c", "import sys; from edgernn.cli import main; sys.exit(main())"]


def run(*words: object, data: bytes = b"") -> subprocess.CompletedProcess[str]:
    result = subprocess.run([*EDGERNN, *map(str, words)], input=data, capture_output=True, check=False, timeout=60)
    return subprocess.CompletedProcess(result.args, result.returncode, result.stdout.decode(), result.stderr.decode())


Within = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def within(capfd: pytest.CaptureFixture[str]) -> Within:
    """Return a function that runs the command in this process, which is quicker."""

    def run_within(*words: object) -> subprocess.CompletedProcess[str]:
        status = main([str(word) for word in words])
        return subprocess.CompletedProcess([], status, *capfd.readouterr())

    return run_within


def bursts() -> bytes:
    """Return 3 s of sound at 16 kHz, s16le: noise in the middle second, silence around it."""
    loud = np.random.default_rng(0).normal(0, 3000, 16000)
    return bytes(np.concatenate([np.zeros(16000), loud, np.zeros(16000)]).astype("<i2").tobytes())


def write_wav(path: Path, data: bytes, rate_hz: int = 16000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(data)
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "bursts.wav", bursts())


@pytest.fixture
def artifact(energy_artifact: Artifact) -> Path:
    return energy_artifact.path


def events_of(stdout: str) -> list[dict[str, Any]]:
    """Return what was spotted, without what is another in every run."""
    messages = [json.loads(line) for line in stdout.splitlines()]
    return [{key: value for key, value in message.items() if key not in ("id", "time")} for message in messages]


def test_recording_gives_events_and_a_summary(artifact: Path, recording: Path) -> None:
    result = run("run", artifact, recording, "--fast")
    assert result.returncode == 0, result.stderr
    assert re.search(r"sound +0\.\d\d +\(until 1\.\d\d s\)", result.stdout.splitlines()[-1])
    summary = result.stderr.splitlines()[-1]
    found = re.fullmatch(
        r"3\.00 s of sound, real-time factor (0\.\d+), 298 frames, 298 steps of \d+\.\d µs \(median\), "
        r"0 samples lost, (\d) events",
        summary,
    )
    assert found, summary
    assert int(found[2]) == len(result.stdout.splitlines())


def test_every_way_in_gives_the_same_events(artifact: Path, recording: Path, tmp_path: Path) -> None:
    file = run("run", artifact, "--source", f"file:{recording}", "--fast", "--sink", "json:")
    pipe = run("run", artifact, "--source", "-", "--sink", "json:", data=bursts())
    onnx = run("run", artifact, recording, "--fast", "--sink", "json:", "--runtime", "onnxruntime")
    assert events_of(file.stdout) == events_of(pipe.stdout) == events_of(onnx.stdout) != []
    kept = tmp_path / "events.jsonl"
    run("run", artifact, recording, "--fast", "--sink", f"json:{kept}")
    assert events_of(kept.read_text()) == events_of(file.stdout)


def test_pipe_at_another_rate_is_resampled(artifact: Path) -> None:
    doubled = bytes(np.repeat(np.frombuffer(bursts(), "<i2"), 2).tobytes())
    result = run("run", artifact, "--source", "-", "--rate", 32000, data=doubled)
    assert result.returncode == 0
    assert "3.00 s of sound" in result.stderr
    assert "until 1." in result.stdout


def test_threshold_and_duration(artifact: Path, recording: Path, within: Within) -> None:
    words = ("run", artifact, recording, "--fast", "--threshold")
    assert len(within(*words, "sound=0.6").stdout.splitlines()) == 2  # its state begins at zero, which is loud
    assert len(within(*words, "sound=0.9999").stdout.splitlines()) == 1
    assert len(within(*words, "0.9999", "--threshold", "sound=0.6").stdout.splitlines()) == 2
    assert "0.50 s of sound" in within("run", artifact, recording, "--fast", "--duration", "0.5").stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_cleanly_with_a_summary(sent: signal.Signals, artifact: Path) -> None:
    with subprocess.Popen(
        [*EDGERNN, "run", str(artifact), "--source", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(bursts())
        process.stdin.flush()
        process.stdout.readline()  # it is under way
        until(lambda: not any(ioctl(process.stdin, FIONREAD, bytes(4))))
        time.sleep(0.3)
        process.send_signal(sent)
        stderr = process.stderr.read().decode()
        assert process.wait(20) == 0, stderr
    assert "3.00 s of sound" in stderr
    assert "Traceback" not in stderr


def refused(result: subprocess.CompletedProcess[str], status: int, words: str) -> None:
    """Check exit status, and that the last line of stderr is the one that says what is wrong."""
    *before, last = result.stderr.splitlines()
    assert result.returncode == status, result.stderr
    assert re.fullmatch(rf"edgernn run: error: .*{words}.*", last), result.stderr
    assert "Traceback" not in result.stderr
    assert all(not line.startswith("edgernn run: error") for line in before)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no artifact": (lambda f: (f / MANIFEST).unlink(), "is not an artifact"),
    "truncated model": (lambda f: os.truncate(f / "step.tflite", 500), "has 500 bytes, the manifest says 2396"),
    "wrong digest": (lambda f: flip(f / "step.onnx", 100), "does not match its digest"),
    "half a manifest": (lambda f: os.truncate(f / MANIFEST, 500), "cannot be read"),
    "future format": (lambda f: change(f, format_version=2), "format version 2"),
    "no decoder": (lambda f: change(f, decoder=None), "has no decoder"),
    "too few labels": (lambda f: change(f, labels=["sound"]), "1 labels for 2 outputs"),
    "rate of zero": (lambda f: change(f, front_end={**manifest(f)["front_end"], "rate_hz": 0}), "rate_hz must be"),
}


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return found


def change(folder: Path, **values: Any) -> None:
    (folder / MANIFEST).write_text(json.dumps({**manifest(folder), **values}))


def test_recording_for_an_artifact_of_frames_is_named(artifact: Path, recording: Path, within: Within) -> None:
    change(artifact, front_end=None)
    refused(within("run", artifact, recording), 2, "gives sound, and the artifact takes frames of shape")
    refused(within("run", artifact), 2, "takes frames, not sound: name their --source")


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_artifact_is_one_clear_line(fault: str, artifact: Path, recording: Path, within: Within) -> None:
    break_it, words = FAULTS[fault]
    break_it(artifact)
    refused(within("run", artifact, recording, "--fast"), 1, words)


def test_broken_recording_is_one_clear_line(artifact: Path, recording: Path, tmp_path: Path, within: Within) -> None:
    import soundfile

    (tmp_path / "text.wav").write_text("this is no sound\n" * 100)
    refused(within("run", artifact, tmp_path / "text.wav", "--fast"), 1, "text.wav")
    nan = np.zeros(16000, np.float32)
    nan[5000] = np.nan
    soundfile.write(tmp_path / "nan.wav", nan, 16000, subtype="FLOAT")
    refused(within("run", artifact, tmp_path / "nan.wav", "--fast"), 1, "NaN.*5000")
    content = bytearray(recording.read_bytes())
    content[24:28] = bytes(4)  # the sample rate in the header
    (tmp_path / "zero.wav").write_bytes(content)
    refused(within("run", artifact, tmp_path / "zero.wav", "--fast"), 1, "zero.wav")
    refused(within("run", artifact, tmp_path / "absent.wav", "--fast"), 2, "absent.wav does not exist")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--source", "gopher://camera"], "no source 'gopher:'"),
        (["--source", "rtsp://camera"], "rtsp: gives frames, and the artifact takes sound"),
        (["--source", "-", "--rate", "0"], "above zero, not '0'"),
        (["a.wav", "--source", "mic:"], "two sources are named"),
        (["a.wav", "--rate", "8000"], "--rate is for raw PCM"),
        (["--sink", "pigeon://hall"], "no sink 'pigeon://hall'"),
        (["--threshold", "loud"], "not 'loud'"),
        (["--threshold", "cat=0.5"], "a threshold is set for cat, and the labels are: sound, silence"),
        (["--threshold", "7"], "--threshold must be above 0 and at most 1, not '7'"),
        (["--threshold", "sound=nan"], "--threshold must be above 0 and at most 1, not 'sound=nan'"),
        (["--duration", "-3"], "--duration must be a number of seconds above 0, not -3"),
        (["--duration", "nan"], "--duration must be a number of seconds above 0, not nan"),
        (["--runtime", "tflite-runtime"], "tflite-runtime"),
        (["--threads", "0"], "at least 1, not 0"),
    ],
)
def test_misuse_is_one_clear_line(words: list[str], said: str, artifact: Path, within: Within) -> None:
    refused(within("run", artifact, *words), 2, said)


def test_no_artifact_named() -> None:
    refused(run("run"), 2, "name the artifact to run")


def test_broken_artifact_in_a_process_of_its_own(artifact: Path, recording: Path) -> None:
    flip(artifact / "step.onnx", 100)
    refused(run("run", artifact, recording, "--fast"), 1, "does not match its digest")


def test_no_microphone_here(artifact: Path) -> None:
    refused(run("run", artifact, "--source", "mic:in the cellar"), 1, "(no microphone 'in the cellar'|libportaudio2)")


def test_reader_that_goes_away_is_not_a_traceback(artifact: Path, recording: Path) -> None:
    command = f"'{EDGERNN[0]}' -c '{EDGERNN[-1]}' run '{artifact}' '{recording}' --fast | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
