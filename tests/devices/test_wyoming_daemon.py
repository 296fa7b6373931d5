"""The wake words of a whole daemon: its configuration, its sinks, a reload, its end; and what bounds it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgernn.artifact import Artifact
from edgernn.cli import main
from edgernn.devices.boards.vitals import Vitals
from edgernn.devices.daemon import wyoming_server
from edgernn.devices.daemon.config import WakeConfig
from edgernn.devices.daemon.counters import DaemonCounters
from edgernn.devices.daemon.health import health
from edgernn.devices.daemon.load import load
from edgernn.devices.daemon.metrics import Metrics
from edgernn.devices.daemon.wake_counters import WakeCounters
from edgernn.devices.daemon.wake_session import WakeSession
from edgernn.devices.daemon.wake_words import WakeWords
from edgernn.devices.daemon.wyoming_server import WyomingServer
from edgernn.errors import ArtifactError, UsageError
from tests.devices.mosquitto import until
from tests.devices.test_serve import Daemon, events, pcm
from tests.devices.wyoming_clients import RawClient, form


def write_config(folder: Path, more: str = "") -> Path:
    path = folder / "edge.toml"
    path.write_text(
        f'state = "{folder / "state"}"\n[wake]\nartifact = "energy"\nlisten = "tcp://127.0.0.1:0"\n'
        f'sinks = "json:{folder / "events.jsonl"}"\n{more}\n'
    )
    return path


def address(folder: Path) -> tuple[str, int]:
    return "127.0.0.1", int(re.findall(r"wake words on tcp://127.0.0.1:(\d+)", (folder / "log").read_text())[-1])


def test_life_of_a_daemon_that_only_offers_words(tmp_path: Path, energy_artifact: Artifact) -> None:
    write_config(tmp_path)
    daemon = Daemon(tmp_path)
    try:
        daemon.wait_for("READY=1")
        daemon.wait_for("WATCHDOG=1")
        with RawClient(address(tmp_path)) as client, RawClient(address(tmp_path)) as other:
            client.send("audio-chunk", pcm(1), **form())
            assert [kind for kind, _ in filter(None, [client.receive(), client.receive()])] == 2 * ["detection"]
            write_config(tmp_path, "refractory_ms = 5000")
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_for("RELOADING=1")
            daemon.wait_for("READY=1")
            client.send("audio-chunk", pcm(1), **form())  # its stream goes on
            other.send("audio-chunk", pcm(3), **form())  # one that begins now has the new settings
            for each, expected in ((client, 1), (other, 1)):
                each.send("ping")
                assert len(each.until("pong")[:-1]) == expected
            write_config(tmp_path, "refractory = 5000")
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_for("RELOADING=1")
            daemon.wait_for("READY=1")
            client.send("ping")
            assert client.receive()
            assert daemon.end() < 2
            assert client.receive() is None
        assert daemon.process.returncode == 0
        assert [(message.pipeline, message.event.label) for message in events(tmp_path)] == 4 * [("wake", "sound")]
        assert "wake.refractory is not known; did you mean refractory_ms?" in (tmp_path / "log").read_text()
    finally:
        daemon.close()


def test_check_and_mistakes(tmp_path: Path, energy_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_config(tmp_path))
    assert main(["serve", path, "--check"]) == 0
    assert "wake      tcp://127.0.0.1:0  energy" in capsys.readouterr().out
    for setting, words in (
        ("wake.words=jarvis", "there is no word 'jarvis' to offer; the artifacts have: sound"),
        ("wake.threshold={ jarvis = 0.5 }", "there is no word 'jarvis' to offer"),
        ('wake.artifact=["energy", "energy"]', "two artifacts have the word 'sound'"),
        ("wake.artifact=none", "none does not exist"),
        ("wake.listen=127.0.0.1", "wake.listen must be an address such as tcp://127.0.0.1:10400"),
        ("wake.listen=tcp://127.0.0.1:x", "wake.listen must be an address such as tcp://127.0.0.1:10400"),
    ):
        assert main(["serve", path, "--check", "--set", setting]) in (1, 2)
        assert words in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert main(["serve", path, "--set", f"wake.listen={where}"]) == 1
    assert f"{where} cannot be listened on: Address already in use" in capsys.readouterr().err


def test_words_are_of_sound(tmp_path: Path, energy_artifact: Artifact) -> None:
    manifest = json.loads((energy_artifact.path / "manifest.json").read_text())
    (energy_artifact.path / "manifest.json").write_text(json.dumps({**manifest, "front_end": None}))
    with pytest.raises(ArtifactError, match="has no front end: its model takes frames of something else than sound"):
        WakeWords(WakeConfig((energy_artifact.path,)))


def test_wake_needs_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text("[wake]\n")
    with pytest.raises(UsageError, match=r"edge.toml:1: wake lacks the key artifact"):
        load(tmp_path / "edge.toml", {})


class Slow:
    """A server that hears nothing until `go` is set."""

    def __init__(self, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.counters = threading.Event(), WakeCounters()
        config = WakeConfig((artifact,), "tcp://127.0.0.1:0")
        self.server = WyomingServer(WakeWords(config), lambda *_: None, self.counters)
        hear = WakeSession._hear

        def wait(*arguments: object) -> None:
            self.go.wait(20)
            hear(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(WakeSession, "_hear", wait)
        self.server.start()


@pytest.fixture
def slow(energy_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow = Slow(energy_artifact.path, monkeypatch)
    yield slow
    slow.go.set()
    slow.server.stop(5)


def test_a_client_that_is_too_fast_has_to_wait(slow: Slow) -> None:
    """Until what the system holds for a connection is full; nothing of it is lost."""
    sent, second = 0, pcm(1)
    with RawClient(slow.server.address) as client:
        client.socket.settimeout(0.3)
        header = b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1}, "payload_length": 32000}'
        message = header + b"\n" + second
        with contextlib.suppress(TimeoutError):
            while sent < 2**26:
                sent += client.socket.send(message[sent % len(message) :])
        assert sent < 2**24
        slow.go.set()
        client.socket.settimeout(10)
        client.socket.sendall(message[sent % len(message) :])
        client.send("ping")
        client.until("pong")
    assert slow.counters.audio_s == sent // len(message) + 1


def test_work_that_hangs_is_not_well(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wyoming_server, "BUSY_S", 0.1)
    with RawClient(slow.server.address) as client:
        assert slow.server.tend()
        client.send("audio-chunk", bytes(640), **form())
        until(lambda: not slow.server.tend())
        slow.go.set()
        client.send("ping")
        client.until("pong")
        assert slow.server.tend()


def test_health_and_metrics_list_the_server(energy_artifact: Artifact) -> None:
    counters = DaemonCounters()
    counters.wake = wake = WakeCounters()
    metrics = Metrics(counters, lambda: Vitals(None, None, 1, None), {}, lambda: 0)
    assert "wake" not in health(counters)[1]
    config = WakeConfig((energy_artifact.path,), "tcp://127.0.0.1:0", provider="cpu")
    server = WyomingServer(WakeWords(config), lambda *_: None, wake)
    server.start()
    place = "tcp://{}:{}".format(*server.address)
    assert health(counters)[1]["wake"] == {"listen": place, "words": ["sound"], "clients": 0}
    text = metrics.text("")[0].decode()
    assert f'edgernn_wake_info{{listen="{place}",words="sound"}} 1.0' in text
    assert 'edgernn_artifact_refused_total{pipeline="wake words"} 0.0' in text
    spotter = server.words.spotters[0]
    streams = [spotter.take(), spotter.take()]  # one that was there, one that is opened
    assert all(stream.runner.runtime.startswith("onnxruntime") for stream in streams)
    server.stop(1)
    assert "wake" not in health(counters)[1]
