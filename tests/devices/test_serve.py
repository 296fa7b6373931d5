"""The daemon as systemd runs it: a process of its own, told by signals, watched through a socket, killed with -9."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgernn.artifact import Artifact, write_artifact
from edgernn.cli import main
from edgernn.devices.daemon.load import load
from edgernn.devices.daemon.prepare import prepare
from edgernn.events import Event, Message

EDGERNN = [sys.executable, "-W", "error", "-c", "import sys; from edgernn.cli import main; sys.exit(main())"]
RATE, SIZE = 16000, 320


def pcm(seconds: int) -> bytes:
    """Return sound that is loud in the second half of each second."""
    noise = np.random.default_rng(0).normal(0, 3000, seconds * RATE)
    noise[np.arange(len(noise)) % RATE < RATE // 2] = 0
    return noise.astype("<i2").tobytes()


class Daemon:
    """A running `edgernn serve`, fed with PCM, and what it tells systemd."""

    def __init__(self, folder: Path, *words: str, **environment: str) -> None:
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = folder / "notify"
        address.unlink(missing_ok=True)
        self._notify.bind(str(address))
        self.heard: list[str] = []
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        log = (folder / "log").open("ab")
        self.begin = time.monotonic()
        self.process = subprocess.Popen(
            [*EDGERNN, "serve", str(folder / "edge.toml"), *words],
            env={**os.environ, "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "400000", **environment},
            stdin=subprocess.PIPE,
            stderr=log,
        )
        log.close()

    def wait_for(self, word: str, within_s: float = 10) -> str:
        """Wait until systemd is told something that begins like that."""
        until = time.monotonic() + within_s
        while True:
            told = self._told.get(timeout=max(0.001, until - time.monotonic()))
            self.heard.append(told)
            if told.startswith(word):
                return told

    def is_silent(self, seconds: float) -> bool:
        """Tell whether systemd is told nothing for some time."""
        while not self._told.empty():
            self._told.get()
        time.sleep(seconds)
        return self._told.empty()

    def _listen(self) -> None:
        while told := self._notify.recv(4096).decode():
            self._told.put(told)

    def say(self, data: bytes, times_real: float = 4.0, at: Callable[[int], object] = lambda chunk: None) -> None:
        """Say sound, so many times as fast as it was recorded; `at` is called before each chunk."""
        assert self.process.stdin is not None
        begin = time.monotonic()
        for number in range(len(data) // (2 * SIZE)):
            at(number)
            time.sleep(max(0.0, begin + number * SIZE / RATE / times_real - time.monotonic()))
            self.process.stdin.write(data[2 * SIZE * number :][: 2 * SIZE])
            self.process.stdin.flush()

    def end(self, number: int = signal.SIGTERM) -> float:
        """Send a signal, and return how many seconds the end took."""
        begin = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(10)
        return time.monotonic() - begin

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self._notify.shutdown(socket.SHUT_RDWR)  # which ends the thread
        self._notify.close()


Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path, energy_artifact: Artifact) -> Iterator[Start]:
    """Return a function that starts the daemon on standard input, events going to events.jsonl."""
    write_config(tmp_path)
    daemons: list[Daemon] = []

    def start_one(*words: str, **environment: str) -> Daemon:
        daemons.append(Daemon(tmp_path, *words, **environment))
        return daemons[-1]

    yield start_one
    for daemon in daemons:
        daemon.close()


def write_config(folder: Path, more: str = "", artifact: str = "energy") -> None:
    (folder / "edge.toml").write_text(
        f'state = "{folder / "state"}"\n'
        f'[pipeline.hall]\nartifact = "{artifact}"\nsource = "stdin:"\nsinks = "json:{folder / "events.jsonl"}"\n'
        f"{more}\n"
    )


def events(folder: Path) -> list[Message]:
    return [Message.from_json(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def undisturbed(folder: Path, data: bytes) -> list[Event]:
    stream = prepare(load(folder / "edge.toml", {}).pipelines["hall"]).stream
    return stream.push(np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768))


def rename(artifact: Artifact, name: str) -> None:
    """Put another artifact in the place of one: the same model by another name."""
    manifest: dict[str, Any] = json.loads((artifact.path / "manifest.json").read_text())
    files = {file: (artifact.path / file).read_bytes() for file in manifest.pop("files")}
    write_artifact(artifact.path, {**manifest, "name": name}, files)


def test_life_of_a_daemon(start: Start, tmp_path: Path) -> None:
    daemon, sound = start(), pcm(2)
    daemon.wait_for("READY=1")
    assert time.monotonic() - daemon.begin < 5  # 1 s on a machine that does nothing else
    daemon.say(sound)
    daemon.wait_for("STATUS=hall running")
    daemon.wait_for("WATCHDOG=1")
    assert daemon.end() < 2
    daemon.wait_for("STOPPING=1")
    assert daemon.process.returncode == 0
    assert [message.event for message in events(tmp_path)] == undisturbed(tmp_path, sound)


def test_sources_that_have_all_ended_end_the_daemon(start: Start, tmp_path: Path) -> None:
    daemon, sound = start(), pcm(2)
    assert daemon.process.stdin is not None
    daemon.process.stdin.write(sound)
    daemon.process.stdin.close()
    assert daemon.process.wait(10) == 0
    assert [message.event for message in events(tmp_path)] == undisturbed(tmp_path, sound)


@pytest.mark.slow
def test_reload_loses_and_repeats_nothing(start: Start, tmp_path: Path, energy_artifact: Artifact) -> None:
    """New artifacts, new sinks and mistakes under a stream, compared event by event with an undisturbed one."""
    daemon, sound = start(), pcm(24)
    daemon.wait_for("READY=1")

    def disturb(chunk: int) -> None:
        if chunk % 90 != 60:
            return
        number = chunk // 90
        if number % 3 == 0:
            rename(energy_artifact, f"energy {number}")
        elif number % 3 == 1:
            write_config(tmp_path, f"late_s = {number}\nreplay_s = 2.5\n[queue]\nmost_events = 500")
        else:
            write_config(tmp_path, "lat_s = 1" if number % 2 else "artifact = 7")
        daemon.process.send_signal(signal.SIGHUP)

    daemon.say(sound, at=disturb)
    for _ in range(13):
        daemon.wait_for("RELOADING=1\nMONOTONIC_USEC=")
        daemon.wait_for("READY=1")
    assert daemon.end() < 2
    log = (tmp_path / "log").read_text()
    assert log.count("hall: energy") == 4  # the last one came with a mistake in the configuration
    assert "lat_s is not known; did you mean late_s?" in log
    assert "queue changed, which counts from the next start on" in log
    expected = [(event.label, event.start_s, event.end_s) for event in undisturbed_of(tmp_path, sound)]
    assert [(m.event.label, m.event.start_s, m.event.end_s) for m in events(tmp_path)] == expected


def undisturbed_of(folder: Path, sound: bytes) -> list[Event]:
    write_config(folder)
    return undisturbed(folder, sound)


@pytest.mark.slow
def test_two_pipelines_and_an_end_while_a_sink_hangs(start: Start, tmp_path: Path) -> None:
    recording, sound = tmp_path / "recording.wav", pcm(3)
    with wave.open(str(recording), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(sound)
    file_sink = f"json:{tmp_path / 'events.jsonl'}"
    second = f'[pipeline.file]\nartifact = "energy"\nsource = "{recording}"\nfast = true\nsinks = "{file_sink}"\n'
    write_config(tmp_path, f'{second}[sink.hung]\nuri = "command:sleep 60"\ntimeout = 90')
    daemon = start("--set", f'pipeline.hall.sinks=["hung", "{file_sink}"]')
    daemon.wait_for("READY=1")
    daemon.say(sound)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("READY=1")
    assert daemon.end() < 2.5  # 2 s on a machine that does nothing else
    assert daemon.process.returncode == 0
    assert f"{len(undisturbed(tmp_path, sound))} events for the sink hung stay" in (tmp_path / "log").read_text()
    for name in ("hall", "file"):
        found = [message.event for message in events(tmp_path) if message.pipeline == name]
        assert found == undisturbed(tmp_path, sound), name


@pytest.mark.slow
def test_a_hung_daemon_is_not_fed(start: Start, tmp_path: Path) -> None:
    daemon = start("--set", "pipeline.hall.stall_s=0.2")
    daemon.wait_for("READY=1")
    daemon.say(pcm(1))
    daemon.wait_for("WATCHDOG=1")
    daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(0.2)
    assert daemon.is_silent(0.5)
    daemon.process.send_signal(signal.SIGCONT)
    daemon.wait_for("WATCHDOG=1")


@pytest.mark.slow
def test_start_waits_for_a_source(start: Start, tmp_path: Path) -> None:
    daemon = start("--set", f"pipeline.hall.source={tmp_path / 'late.wav'}")
    daemon.wait_for("STATUS=hall reopening")
    time.sleep(0.5)
    with wave.open(str(tmp_path / "late.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(pcm(8))
    daemon.wait_for("READY=1")
    daemon.wait_for("STATUS=hall running")
    assert "EXTEND_TIMEOUT_USEC=30000000" in daemon.heard
    assert daemon.end(signal.SIGINT) < 2


def test_reload_while_it_waits_for_a_source(start: Start, tmp_path: Path) -> None:
    config = (tmp_path / "edge.toml").read_text()
    (tmp_path / "edge.toml").write_text(config.replace("stdin:", str(tmp_path / "nowhere.wav")))
    daemon = start()
    daemon.wait_for("STATUS=hall reopening")
    (tmp_path / "edge.toml").write_text(config)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("READY=1")
    assert not [told for told in daemon.heard if told.startswith("RELOADING")], "for systemd it still started"
    daemon.say(pcm(1))
    daemon.wait_for("STATUS=hall running")
    assert daemon.end() < 2


@pytest.mark.slow
def test_reload_with_a_source_that_cannot_be_is_refused(start: Start, tmp_path: Path) -> None:
    """Else its pipeline would never run, the watchdog would have the daemon restarted, and that start would fail."""
    daemon = start()
    daemon.wait_for("READY=1")
    write_config(tmp_path, '[pipeline.b]\nartifact = "energy"\nsource = "csv:readings.csv"\n')
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("READY=1")
    daemon.say(pcm(1))
    daemon.wait_for("STATUS=hall running")
    assert daemon.end() < 2
    log = (tmp_path / "log").read_text()
    assert "the new configuration is refused" in log
    assert "edge.toml:6: the source csv: gives frames, and the artifact takes sound" in log


@pytest.mark.slow
@pytest.mark.parametrize("source", ["nowhere.wav", "mic:nope"])
def test_reload_to_a_source_that_is_not_there_is_refused_while_the_old_one_works(
    source: str, start: Start, tmp_path: Path
) -> None:
    daemon = start()
    daemon.wait_for("READY=1")
    daemon.say(pcm(1))
    config = (tmp_path / "edge.toml").read_text()
    (tmp_path / "edge.toml").write_text(config.replace("stdin:", source))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("RELOADING=1")
    daemon.wait_for("READY=1")
    daemon.say(pcm(2))
    assert daemon.end() < 2
    log = (tmp_path / "log").read_text()
    assert re.search(r"the new configuration is refused, the old one goes on: .*edge.toml:4: .*no", log)
    assert log.count("the source is opened again") == 0
    assert len(events(tmp_path)) >= 2


@pytest.mark.slow
def test_a_folder_of_events_that_is_not_there_yet_is_waited_for(start: Start, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    config = (tmp_path / "edge.toml").read_text().replace("/events.jsonl", "/disk/events.jsonl")
    (tmp_path / "edge.toml").write_text(config)
    assert main(["serve", str(tmp_path / "edge.toml"), "--check"]) == 2
    daemon = start()
    daemon.wait_for("READY=1")
    daemon.say(pcm(1))
    daemon.process.send_signal(signal.SIGHUP)  # for something else: it waits on
    daemon.wait_for("RELOADING=1")
    (tmp_path / "edge.toml").write_text(config.replace("/disk/", "/dsik/"))
    daemon.wait_for("READY=1")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("RELOADING=1")
    daemon.wait_for("READY=1")
    log = (tmp_path / "log").read_text()
    assert "disk/events.jsonl for events cannot be written: No such file or directory" in log
    assert re.search(r"the new configuration is refused.*edge.toml:5: the file .*dsik", log)
    disk.mkdir()
    until = time.monotonic() + 10
    while not (disk / "events.jsonl").exists() or not (disk / "events.jsonl").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    assert daemon.end() < 2
