"""A board as its user has it: EdgeRNN from its wheel in a virtual environment, and the demo's artifact on it.

Words, times and scores are the desktop's; so are those of the daemon, fed through a pipe as fast as it takes sound.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sqlite3
import subprocess
import time
import urllib.request
import wave
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgernn.artifact import Artifact
from edgernn.certificate import read_certificate
from edgernn.cli import main
from edgernn.devices.pipeline import open_stream
from edgernn.devices.signing import make_key, read_key, sign
from edgernn.events import Event, Message
from tests.boards.aarch64 import BOARDS, Board
from tests.boards.conftest import ROOT

pytestmark = pytest.mark.arm

DEMO = ROOT / "train/pretrained/samples/demo.wav"
MODEL = ROOT / "train/pretrained/keyword-crnn"
STEP_S = 0.04
MINUTE_S = 60
FORMATS = {"litert": "tflite", "onnxruntime": "onnx", "tflite-runtime": "tflite"}
END_S = 4.0  # two seconds on a machine that does nothing else, and emulates nothing


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, installing: Future[Board]) -> dict[str, Path]:
    """Return the demo's artifact by runtime, signed; the older one takes it as the option for it makes it."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "demo.wav").write_bytes(DEMO.read_bytes())
    assert main(["convert", str(MODEL), "-o", str(folder / "keyword"), "--to", "tflite,onnx", "-q"]) == 0
    make_key(folder / "release")
    sign(Artifact.open(folder / "keyword"), read_key(folder / "release"))
    floor = ["--to", "tflite", "--runtime-floor", "tflite-runtime-2.14", "-q"]
    assert main(["convert", str(MODEL), "-o", str(folder / "older"), *floor]) == 0
    return {**dict.fromkeys(("litert", "onnxruntime"), folder / "keyword"), "tflite-runtime": folder / "older"}


def trusted(artifact: Path) -> Path:
    """Return the key that its signature is checked with."""
    return artifact.parent / "release.pub"


def demo_samples() -> np.ndarray[Any, np.dtype[np.int16]]:
    with wave.open(str(DEMO)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def on_the_desktop(artifact: Path, kind: str, samples: np.ndarray[Any, np.dtype[np.int16]]) -> list[Event]:
    runtime = "onnxruntime" if kind == "onnx" else "litert"
    stream = open_stream(Artifact.open(artifact), runtime)
    return stream.push(samples.astype(np.float32) / np.float32(32768))


def check_events(found: Sequence[Event], expected: Sequence[Event], artifact: Path, kind: str) -> None:
    """Check that words are the same, at the same time or one step beside it, with scores as near as outputs may be.

    A softmax moves by half of what its inputs move by, at most.
    """
    assert [event.label for event in found] == [event.label for event in expected]
    assert len(found) >= 8
    most = read_certificate(Artifact.open(artifact)).made[kind].bounds[0].elsewhere / 2
    for one, other in zip(found, expected, strict=True):
        assert abs(one.score - other.score) <= most + 1e-4, (one, other)  # rounded to four places
        for moment in (one.start_s - other.start_s, one.end_s - other.end_s):
            assert abs(moment) <= STEP_S + 1e-6, (one, other)


def messages(text: str) -> list[Message]:
    return [Message.from_json(line) for line in text.splitlines()]


@pytest.mark.parametrize("runtime", FORMATS)
def test_the_demo(runtime: str, board: Board, artifacts: dict[str, Path]) -> None:
    """`make demo`, there."""
    artifact, kind = artifacts[runtime], FORMATS[runtime]
    edgernn = "/opt/older/bin/edgernn" if runtime == "tflite-runtime" else "edgernn"
    recording = artifact.parent / "demo.wav"
    done = board.run(edgernn, "run", artifact, recording, "--fast", "--runtime", runtime, "--sink", "json:")
    assert done.returncode == 0, done.stderr
    assert f"in {'ai-edge-litert' if runtime == 'litert' else runtime} " in done.stderr
    found = [message.event for message in messages(done.stdout)]
    check_events(found, on_the_desktop(artifact, kind, demo_samples()), artifact, kind)


def test_the_artifact_is_the_one_that_was_proven(board: Board, artifacts: dict[str, Path]) -> None:
    artifact = artifacts["litert"]
    assert "keyword-crnn" in board.must("edgernn", "inspect", artifact)
    replays = json.loads(board.must("edgernn", "verify", artifact, "--trusted", trusted(artifact), "--json"))["replays"]
    assert {replay["format"] for replay in replays} == {"tflite", "onnx"}
    for replay in replays:
        (output,) = replay["outputs"]
        assert (replay["same_machine"], replay["miss"], replay["steps"]) == (False, None, 5000)
        assert output["from_golden"] <= output["allowed_from_golden"]


def test_what_the_older_runtime_lacks_is_said(board: Board, artifacts: dict[str, Path]) -> None:
    artifact = artifacts["litert"]
    done = board.run("/opt/older/bin/edgernn", "run", artifact, artifact.parent / "demo.wav", "--fast")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"edgernn run: error: .*cannot be opened by tflite-runtime 2\.14\.0: .*\n", done.stderr)


def test_doctor(board: Board) -> None:
    found = json.loads(board.must("edgernn", "doctor", "--json"))
    machine = found["machine"]
    assert (found["kind"], found["bits"]) == ("raspberry-pi", 64)
    assert (machine["board"], machine["cpu"]) == (BOARDS["cortex-a72"][0], "Cortex-A72")
    assert machine["architecture"] == "aarch64"
    assert 1 <= machine["cores"] <= 4
    assert {trial["runtime"]: trial["fault"] for trial in found["trials"]} == {"litert": "", "onnxruntime": ""}
    assert found["portaudio_fault"] == "", "PortAudio of the board is found and starts"
    assert found["vitals"]["temperature_c"] == 48.312
    assert "the clock follows the load" in found["advice"][-1]["what"]


class Serving:
    """`edgernn serve` on the board, hearing what it is fed, its events in a file and in a database."""

    def __init__(self, board: Board, folder: Path, artifact: Path) -> None:
        self.folder, self._artifact = folder, artifact
        self.configure("")
        self.begin = time.monotonic()
        with (folder / "log").open("wb") as log:
            self.process = board.start("edgernn", "serve", folder / "edge.toml", stdin=subprocess.PIPE, stderr=log)

    def wait_for_url(self) -> None:
        found = self.wait_for(lambda: re.search(r"live page is at (http://\S+)", self.log))
        self.url = found[1].rstrip("/")

    def configure(self, more: str) -> None:
        folder = self.folder
        (folder / "edge.toml").write_text(
            f'state = "{folder / "state"}"\nhttp.listen = "127.0.0.1:0"\n[pipeline.hall]\n'
            f'artifact = "{self._artifact}"\nsource = "stdin:"\n{more}\n'
            f'sinks = ["json:{folder / "events.jsonl"}", "sqlite:{folder / "events.db"}"]\n'
            f'[store]\ntrusted_keys = "{trusted(self._artifact)}"\n'
        )

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def wait_for(self, what: Callable[[], Any], within_s: float = 60) -> Any:
        until = time.monotonic() + within_s
        while not (found := what()):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(0.1)
        return found

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]

    def say(self, samples: np.ndarray[Any, np.dtype[np.int16]]) -> None:
        """Write to its standard input, which takes it as fast as the board does."""
        raw: Any = self.process.stdin.buffer  # type: ignore[union-attr]
        raw.write(samples.tobytes())
        raw.flush()


@pytest.fixture
def serving(board: Board, artifacts: dict[str, Path], tmp_path: Path) -> Iterator[Serving]:
    daemon = Serving(board, tmp_path, artifacts["litert"])
    with contextlib.suppress(BrokenPipeError), daemon.process:
        try:
            daemon.wait_for_url()
            yield daemon
        finally:
            daemon.process.kill()


def test_a_minute_of_the_daemon(serving: Serving, artifacts: dict[str, Path]) -> None:
    """With a reload in its middle, of which nothing is lost, and an end in time."""
    sound = np.tile(demo_samples(), 4)[: 16000 * MINUTE_S]
    expected = on_the_desktop(artifacts["litert"], "tflite", sound)
    half = len(sound) // 2 + 1234
    serving.say(sound[:half])
    serving.configure("late_s = 2")
    serving.process.send_signal(signal.SIGHUP)
    serving.wait_for(lambda: serving.metric('edgernn_reloads_total{result="applied"}') == 1)
    serving.say(sound[half:])
    words = 'edgernn_events_total{pipeline="hall",word="%s"}'
    last = expected[-1].label
    count = sum(event.label == last for event in expected)
    serving.wait_for(lambda: serving.metric(words % last) == count)
    begin = time.monotonic()
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(END_S) == 0
    print(f"the end took {time.monotonic() - begin:.2f} s, all {begin - serving.begin:.1f} s")
    found = messages((serving.folder / "events.jsonl").read_text())
    check_events([message.event for message in found], expected, artifacts["litert"], "tflite")
    with contextlib.closing(sqlite3.connect(serving.folder / "events.db")) as database:
        assert [id for (id,) in database.execute("SELECT id FROM events ORDER BY rowid")] == [m.id for m in found]
