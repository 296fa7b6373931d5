"""A wyoming-satellite, with packages of its own, hears the demo's words by the daemon and a virtual microphone."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from edgernn.events import Message
from tests.devices.test_microphone import EDGERNN, VirtualMicrophone, pytestmark
from tests.devices.wyoming_clients import RawClient
from tests.end_to_end.test_demo import DEMO, truth

__all__ = ["pytestmark"]

RECORD = "arecord -q -D pulse -f S16_LE -r 16000 -c 1 -t raw"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Return a folder with the satellite, and the older wyoming that it wants."""
    words = ["-m", "pip", "install", "-q", "--target", str(tmp_path / "packages"), "wyoming-satellite==1.0.0"]
    subprocess.run([sys.executable, *words], check=True)
    return tmp_path / "packages"


@pytest.fixture
def running() -> Iterator[ExitStack]:
    """Return what ends the processes, the youngest first."""
    with ExitStack() as stack:
        yield stack


def start(words: list[object], log: Path, running: ExitStack, environment: dict[str, str] | None = None) -> None:
    with log.open("wb") as file:
        process = subprocess.Popen([str(word) for word in words], stderr=file, env=environment)
    running.callback(process.wait)
    running.callback(process.terminate)


def wait_for(pattern: str, log: Path, within_s: float = 20) -> re.Match[str]:
    until = time.monotonic() + within_s
    while not (found := re.search(pattern, log.read_text())):
        assert time.monotonic() < until, f"no '{pattern}' in:\n{log.read_text()}"
        time.sleep(0.05)
    return found


def connected(port: int, within_s: float = 20) -> RawClient:
    """Connect to the satellite, which says that it is there before it listens."""
    until = time.monotonic() + within_s
    while True:
        try:
            return RawClient(("127.0.0.1", port))
        except ConnectionRefusedError:
            assert time.monotonic() < until, "the satellite does not listen"
            time.sleep(0.05)


def settled(told: Path, events: Path, within_s: float = 10) -> list[str]:
    """Return the words that the satellite told, once as many as the daemon decided."""
    until = time.monotonic() + within_s
    while len(told.read_text().split()) < len(events.read_text().splitlines()) and time.monotonic() < until:
        time.sleep(0.05)
    return told.read_text().split()


def end_pipelines(home: RawClient) -> None:
    """Be Home Assistant: each pipeline that the satellite asks for ends, which makes it wait for the next word."""
    home.send("run-satellite")
    while (event := home.receive()) is not None:  # until it is closed
        if event[0] == "run-pipeline":
            home.send("transcript", text="turn on the light")


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port: int = taken.getsockname()[1]
    return port


def test_satellite_hears_every_word_of_the_demo(
    packages: Path, keyword_artifact: Path, tmp_path: Path, running: ExitStack
) -> None:
    """Also those after the first: nothing is stuck after a detection."""
    events, told = tmp_path / "events.jsonl", tmp_path / "told"
    told.touch()
    (tmp_path / "edge.toml").write_text(
        f'state = "{tmp_path / "state"}"\n'
        f'[wake]\nartifact = "{keyword_artifact}"\nlisten = "tcp://127.0.0.1:0"\nsinks = "json:{events}"\n'
    )
    microphone = VirtualMicrophone(tmp_path / "pulse")
    running.callback(microphone.close)
    daemon_log, satellite_log, port = tmp_path / "daemon", tmp_path / "satellite", free_port()
    start([*EDGERNN, "serve", tmp_path / "edge.toml"], daemon_log, running)
    wake = wait_for(r"wake words on (\S+):", daemon_log)[1]
    command = f"sh -c {shlex.quote(f'cat >> {told}; echo >> {told}')}"
    satellite = [sys.executable, "-m", "wyoming_satellite", "--no-zeroconf", "--uri", f"tcp://127.0.0.1:{port}"]
    options = ["--mic-command", RECORD, "--wake-uri", wake, "--detection-command", command]
    environment = {**microphone.environment, "PYTHONPATH": str(packages)}
    start([*satellite, *options], satellite_log, running, environment)
    wait_for("Connected to services", satellite_log)
    home = connected(port)
    thread = threading.Thread(target=end_pipelines, args=(home,))
    running.callback(thread.join)
    running.enter_context(home)
    thread.start()
    wait_for("Waiting for wake word", satellite_log)
    time.sleep(1)
    microphone.play(DEMO)
    time.sleep(1)
    said, heard = [word for word, _, _ in truth()], settled(told, events)
    assert [word for word in heard if word in said] == heard, (said, heard)
    assert len(heard) >= len(said) - 1, (said, heard)
    assert [Message.from_json(line).event.label for line in events.read_text().splitlines()] == heard
