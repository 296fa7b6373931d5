"""The wake-word server under the protocol's own library, and under clients that behave badly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgernn.cli import main
from edgernn.devices.daemon import wake_words, wyoming_client, wyoming_events
from edgernn.devices.daemon.config import PipelineConfig, WakeConfig
from edgernn.devices.daemon.wake_counters import WakeCounters
from edgernn.devices.daemon.wake_words import WakeWords
from edgernn.devices.daemon.wyoming_server import WyomingServer
from edgernn.errors import FailureError
from edgernn.events import Event, Message
from edgernn.machine import resident_bytes
from tests.devices.conftest import write_energy_artifact
from tests.devices.wyoming_clients import (
    AsyncTcpClient,
    AudioChunk,
    AudioStart,
    AudioStop,
    Describe,
    Detect,
    Detection,
    Info,
    NotDetected,
    RawClient,
    audio,
    form,
)

RATE = 16000


def pcm(seconds: int, rate: int = RATE) -> bytes:
    """Return sound that is loud in the second half of each second; the model also hears some where it begins."""
    noise = np.random.default_rng(0).normal(0, 3000, seconds * rate)
    noise[np.arange(len(noise)) % rate < rate // 2] = 0
    return noise.astype("<i2").tobytes()


class Server:
    """A server of its own, what it counts, and what it told the sinks."""

    def __init__(self, config: WakeConfig) -> None:
        self.told: list[tuple[str, Event]] = []
        self.counters = WakeCounters()
        self.server = WyomingServer(WakeWords(config), self._put, self.counters)
        self.server.start()

    def _put(self, config: PipelineConfig, event: Event) -> None:
        self.told.append((config.name, event))

    def connect(self) -> RawClient:
        return RawClient(self.server.address)

    def wait_until_empty(self) -> None:
        until = time.monotonic() + 10
        while self.counters.clients:
            assert time.monotonic() < until
            time.sleep(0.005)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_energy_artifact(tmp_path_factory.mktemp("wake") / "energy").path


@pytest.fixture
def server(artifact: Path) -> Iterator[Server]:
    server = Server(config(artifact))
    yield server
    server.server.stop(5)


@pytest.fixture(scope="module")
def lasting(artifact: Path) -> Iterator[Server]:
    """Return a server for many examples."""
    server = Server(config(artifact))
    yield server
    server.server.stop(5)


def config(artifact: Path, **more: object) -> WakeConfig:
    values: dict[str, object] = {"listen": "tcp://127.0.0.1:0", "most_clients": 4, "sinks": ("text:",), **more}
    return WakeConfig((artifact,), **values)  # type: ignore[arg-type]


def run_events(artifact: Path, folder: Path, data: bytes) -> list[Event]:
    """Return what `edgernn run` spots."""
    recording = folder / "recording.wav"
    with wave.open(str(recording), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(data)
    assert main(["run", str(artifact), str(recording), "--fast", "--sink", f"json:{folder / 'events.jsonl'}"]) == 0
    return [Message.from_json(line).event for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def expected(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    events = run_events(artifact, tmp_path_factory.mktemp("run"), pcm(3))
    assert len(events) == 4
    return events


def test_conversation_with_the_library(server: Server, expected: list[Event]) -> None:
    async def talk() -> tuple[Info, list[object]]:
        async with AsyncTcpClient(*server.server.address, read_timeout=10) as client:
            await client.write_event(Describe().event())
            answer = await client.read_event()
            assert answer
            await client.write_event(Detect(names=["sound"]).event())
            await client.write_event(AudioStart(**form(), timestamp=5000).event())
            found: list[object] = []
            for number, chunk in enumerate(audio(pcm(3), [320] * 149)):
                await client.write_event(AudioChunk(**form(), audio=chunk, timestamp=5000 + 20 * number).event())
            for _ in expected:
                event = await client.read_event()
                assert event
                found.append(Detection.from_event(event))
            await client.write_event(AudioStop().event())
            await client.write_event(AudioStart(**form()).event())
            await client.write_event(AudioStop().event())
            event = await client.read_event()
            assert event
            assert NotDetected.is_type(event.type)
            return Info.from_event(answer), found

    info, found = asyncio.run(talk())
    server.wait_until_empty()
    [program] = info.wake
    assert (program.name, program.installed) == ("edgernn", True)
    assert [(model.name, model.phrase, model.languages) for model in program.models] == [("sound", "sound", ["en"])]
    spoken = [5000 + 1000 * event.end_s for event in expected]
    for detection, ms in zip(found, spoken, strict=True):
        assert isinstance(detection, Detection)
        assert detection.name == "sound"
        assert detection.timestamp is not None
        assert -20 <= ms - detection.timestamp <= 20  # that of the chunk in which it was decided
    assert [event for _, event in server.told] == expected
    assert server.counters.words == {"sound": 4}
    assert server.counters.not_detected == 1


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 9000), max_size=30))
def test_any_cut_gives_what_run_gives(lasting: Server, expected: list[Event], cuts: list[int]) -> None:
    with lasting.connect() as client:
        client.send("audio-start", **form())
        for chunk in audio(pcm(3), cuts):
            client.send("audio-chunk", chunk, **form())
        client.send("audio-stop")
        client.send("ping", text="end")
        found = client.until("pong")[:-1]
    assert [(data["name"], data["timestamp"]) for data in found] == [(e.label, int(1000 * e.end_s)) for e in expected]


@pytest.mark.parametrize(("rate", "width", "channels"), [(48000, 2, 2), (22050, 3, 1), (16000, 4, 1), (16000, 1, 1)])
def test_other_forms_of_audio(server: Server, expected: list[Event], rate: int, width: int, channels: int) -> None:
    samples = np.frombuffer(pcm(3, rate), "<i2").astype(np.int64) << 16
    samples = np.repeat(samples, channels) >> (32 - 8 * width)
    raw = samples.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :width]
    data = (raw + np.uint8(128) if width == 1 else raw).tobytes()
    with server.connect() as client:
        for start in range(0, len(data), 1000 * width * channels):
            client.send("audio-chunk", data[start : start + 1000 * width * channels], **form(rate, width, channels))
        client.send("audio-stop")
        client.send("ping")
        found = client.until("pong")[:-1]
    assert [detection["name"] for detection in found] == [event.label for event in expected]
    for detection, event in zip(found, expected, strict=True):
        assert detection["timestamp"] == pytest.approx(1000 * event.end_s, abs=60)


def test_clients_at_once_have_streams_of_their_own(server: Server) -> None:
    data = pcm(3)
    with server.connect() as one, server.connect() as other:
        for start in range(0, len(data), 640):
            one.send("audio-chunk", data[start : start + 640], **form())
            other.send("audio-chunk", bytes(640), **form())
        for client in (one, other):
            client.send("audio-stop")
        assert [kind for kind, _ in filter(None, [one.receive() for _ in range(4)])] == 4 * ["detection"]
        assert [kind for kind, _ in filter(None, [other.receive()])] == ["detection"]
        for client in (one, other):
            client.send("ping")
            assert client.receive() == ("pong", {"text": None})


def test_unknown_words_are_told_and_only_wanted_ones_detected(server: Server) -> None:
    with server.connect() as client:
        client.send("detect", names=["jarvis"])
        kind, data = client.receive() or ("", {})
        assert (kind, data["text"]) == ("error", "there is no wake word 'jarvis'; the words are: sound")
        client.send("audio-chunk", pcm(2), **form())
        client.send("audio-stop")
        assert client.receive() == ("not-detected", {})
        client.send("detect", names=["jarvis", "sound"])
        client.send("audio-chunk", pcm(1), **form())
        assert [kind for kind, _ in filter(None, [client.receive(), client.receive()])] == ["error", "detection"]


@pytest.mark.parametrize(
    "said",
    [
        b"not json\n",
        b"[1]\n",
        b'{"no": "type"}\n',
        b'{"type": 7}\n',
        b'{"type": "detect", "data": 7}\n',
        b'{"type": "detect", "data": {"names": [7]}}\n',
        b'{"type": "describe", "data_length": 1000000000}\n',
        b'{"type": "describe", "payload_length": 1000000000000}\n',
        b'{"type": "describe", "payload_length": -1}\n',
        b'{"type": "describe", "payload_length": true}\n',
        b'{"type": "describe", "payload_length": 1e400}\n',
        b'{"type": "describe", "data_length": 3}\n{"a',
        b"[" * 60000 + b"\n",
        b"\xff\xfe\n",
        b"x" * 70000,
        b'{"type": "audio-stop"}\n',
        b'{"type": "audio-chunk"}\n',
        b'{"type": "audio-start", "data": {"rate": 0, "width": 2, "channels": 1}}\n',
        b'{"type": "audio-start", "data": {"rate": 16000, "width": 2, "channels": 1e9}}\n',
        b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1}, "payload_length": 1}\nx',
        b'{"type": "audio-start", "data": {"rate": 16000, "width": 2, "channels": 1}}\n'
        b'{"type": "audio-chunk", "data": {"rate": 8000, "width": 2, "channels": 1}}\n',
    ],
)
def test_malformed_events_end_that_connection_alone(
    lasting: Server, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before = lasting.counters.ended["malformed"]
    with lasting.connect() as good, lasting.connect() as bad:
        bad.socket.sendall(said)
        if said.endswith((b'{"a', b"\nx")):
            bad.socket.shutdown(1)
        assert bad.receive() is None
        good.send("ping", text="well")
        assert good.receive() == ("pong", {"text": "well"})
    lasting.wait_until_empty()
    assert lasting.counters.ended["malformed"] == before + 1
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_a_time_without_threads_is_survived(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", fail)
        with server.connect() as client:
            assert client.receive() is None
    server.wait_until_empty()
    with server.connect() as client:
        client.send("ping")
        assert client.receive() == ("pong", {"text": None})
    assert server.server.tend()


def test_a_time_that_is_no_number_is_none(server: Server) -> None:
    with server.connect() as client:
        client.send("audio-start", timestamp=float("nan"), **form())
        client.send("audio-chunk", pcm(1), **form())
        kind, data = client.receive() or ("", {})
        assert (kind, data["name"]) == ("detection", "sound")
        assert 0 <= data["timestamp"] <= 1000


def test_unknown_events_are_passed_over(server: Server) -> None:
    with server.connect() as client:
        client.send("synthesize", text="hello")
        client.send("select-program", name="edgernn")
        client.send("ping")
        assert client.receive() == ("pong", {"text": None})


def test_silent_and_deaf_clients_are_dropped(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wyoming_client, "WRITE_S", 0.2)
    monkeypatch.setattr(wyoming_events, "EVENT_S", 0.2)
    server = Server(config(artifact, idle_s=0.2))
    try:
        with server.connect() as idle, server.connect() as stalled, server.connect() as deaf:
            stalled.socket.sendall(b'{"type": "descr')
            with contextlib.suppress(ConnectionError):  # it is slowed first, and then cut off
                while True:
                    deaf.socket.sendall(1000 * b'{"type": "describe"}\n')
            assert idle.receive() is stalled.receive() is None
            server.wait_until_empty()
        assert server.counters.ended == {"idle": 1, "stalled": 1, "unread": 1}
    finally:
        server.server.stop(5)


def test_too_many_clients_are_refused(server: Server) -> None:
    clients = [server.connect() for _ in range(4)]
    for client in clients:
        client.send("ping")
        assert client.receive()
    with server.connect() as fifth:
        kind, data = fifth.receive() or ("", {})
        assert (kind, data["code"]) == ("error", "too-many-clients")
        assert data["text"] == "there are as many clients as there may be: 4 (wake.most_clients)"
        assert fifth.receive() is None
    for client in clients:
        client.socket.close()
        client.__exit__(None, None, None)
    server.wait_until_empty()
    with server.connect() as client:
        client.send("ping")
        assert client.receive()
    assert server.counters.ended["refused"] == 1


def threads_of_server() -> int:
    """Count them by name: those of other tests come and go."""
    return sum(thread.name.startswith("wyoming") for thread in threading.enumerate())


def test_hundreds_of_connections_and_detections_leave_nothing_behind(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No growth, and no opening of files: the streams are lent again."""

    data = pcm(1)

    def connect(times: int) -> None:
        for _ in range(times):
            with server.connect() as client:
                client.send("audio-chunk", data, **form())
                assert client.receive()
                assert client.receive()
            server.wait_until_empty()

    connect(20)
    growths = []
    [spotter] = server.server.words.spotters
    stream = spotter.prepared.stream
    threads = threads_of_server()
    monkeypatch.delattr(wake_words, "open_stream")
    for _ in range(4):  # other tests' threads may take memory meanwhile, but not each time
        before = resident_bytes()
        connect(50)
        growths.append(resident_bytes() - before)
    with server.connect() as client:
        for _ in range(100):
            client.send("audio-chunk", data, **form())
            assert client.receive()
        assert client.receive()  # that of the beginning
    server.wait_until_empty()
    assert server.counters.words["sound"] == 2 * 220 + 101
    assert threads_of_server() == threads
    assert min(growths) < 500_000
    assert spotter._spare == [stream]


def test_new_words_are_for_new_streams(server: Server, tmp_path: Path) -> None:
    with server.connect() as client:
        client.send("audio-chunk", pcm(1), **form())
        client.send("ping")
        assert len(client.until("pong")[:-1]) == 2
        old = server.server.words
        server.server.take_over(WakeWords(config(write_energy_artifact(tmp_path / "new").path, refractory_ms=5000.0)))
        client.send("audio-chunk", pcm(1), **form())
        assert client.receive()  # the old one goes on
        client.send("detect")
        client.send("audio-chunk", pcm(3), **form())
        client.send("ping")
        assert len(client.until("pong")[:-1]) == 1
        assert old.spotters[0]._spare == []


def test_an_artifact_that_was_replaced_is_not_mixed_with_the_old_one(
    server: Server, artifact: Path, tmp_path: Path
) -> None:
    copy = write_energy_artifact(tmp_path / "copy").path
    mixed = Server(config(copy))
    try:
        with mixed.connect() as one, mixed.connect() as other:
            one.send("audio-chunk", bytes(640), **form())
            one.send("ping")
            one.until("pong")
            manifest = json.loads((copy / "manifest.json").read_text())
            (copy / "manifest.json").write_text(json.dumps({**manifest, "name": "other"}))
            other.send("audio-chunk", bytes(640), **form())
            assert other.receive() is None
            one.send("ping")
            one.until("pong")
        mixed.wait_until_empty()
        assert mixed.counters.ended == {"failed": 1, "closed": 1}
    finally:
        mixed.server.stop(5)


def test_an_address_in_use_is_told(server: Server, artifact: Path) -> None:
    host, port = server.server.address
    with pytest.raises(FailureError, match=f"tcp://{host}:{port} cannot be listened on: Address already in use"):
        Server(config(artifact, listen=f"tcp://{host}:{port}"))
