from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
import threading
import time
import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgernn.devices.sources import microphone, open_source
from edgernn.devices.sources.file import FileSource
from edgernn.devices.sources.microphone import MicrophoneSource, find_microphone, list_microphones
from edgernn.devices.sources.pieces import Pieces
from edgernn.devices.sources.resample import Resampler
from edgernn.devices.sources.stdin import StdinSource
from edgernn.errors import AudioError, MissingDependencyError, UsageError
from edgernn.stream import Chunk, Source
from tests.devices.senders import Pipe
from tests.devices.stand_ins import FakeStream, PortAudioError, sounddevice_of


def tone(rate_hz: int, seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def pcm(samples: np.ndarray) -> bytes:
    return bytes(np.rint(samples * 32767).astype("<i2").tobytes())


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(pcm(tone(16000, 0.5)))
    return path


def everything(source: Source) -> np.ndarray:
    return np.concatenate([chunk.samples for chunk in source])


def stdin_of(data: bytes, rate_hz: int = 16000, input_hz: int = 16000) -> StdinSource:
    return StdinSource(rate_hz, input_hz, io.BufferedReader(io.BytesIO(data)))


def test_file_gives_the_recording_resampled(recording: Path) -> None:
    np.testing.assert_allclose(everything(open_source(str(recording), 16000, fast=True)), tone(16000, 0.5), atol=1e-4)
    slower = everything(open_source(f"file:{recording}", 8000, fast=True))
    np.testing.assert_allclose(slower[500:3500], tone(8000, 0.5)[500:3500], atol=1e-3)
    assert len(everything(open_source(f"file://{recording}", 16000, fast=True))) == 8000


def test_file_at_its_own_pace_takes_as_long_as_it_lasts(recording: Path) -> None:
    start = time.monotonic()
    times = [chunk.time_s - start for chunk in open_source(str(recording), 16000)]
    assert 0.45 < time.monotonic() - start < 2.0
    np.testing.assert_allclose(np.diff(times), 0.02, atol=1e-6)


def test_closing_ends_a_file_from_another_thread(recording: Path) -> None:
    source, closing = FileSource(recording, 16000), list[threading.Thread]()
    count = 0
    for chunk in source:
        count += len(chunk.samples)
        if not closing:
            closing.append(threading.Thread(target=source.close))
            closing[0].start()
            closing[0].join()
    assert 0 < count < 8000


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "ended before a sample came"), (b"RIFF$\0\0\0WAVE", "a WAV header")]
)
def test_stdin_that_is_not_pcm_says_so(data: bytes, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        list(StdinSource(16000, 16000, io.BufferedReader(io.BytesIO(data))))


@pytest.mark.parametrize("input_hz", [8000, 16000, 44100])
def test_stdin_gives_what_is_piped_in_wherever_it_is_cut(input_hz: int) -> None:
    class Dribble(io.RawIOBase):
        """Gives a few bytes at a time, cutting samples in two."""

        data = pcm(tone(input_hz, 0.5))

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            piece, self.data = self.data[:777], self.data[777:]
            buffer[: len(piece)] = piece
            return len(piece)

    samples = everything(StdinSource(16000, input_hz, io.BufferedReader(Dribble(), 16)))
    assert abs(len(samples) - 8000) <= 1
    np.testing.assert_allclose(samples[800:7200], tone(16000, 0.5)[800:7200], atol=2e-3)


def test_stdin_opened_again_goes_on_and_ends() -> None:
    pipe = Pipe()
    first = StdinSource(16000, 16000, pipe.stream)
    pipe.give()
    heard = len(next(iter(first)).samples)
    first.close()
    pipe.give()
    assert not list(first)
    pipe.end()
    assert heard + len(everything(StdinSource(16000, 16000, pipe.stream))) == 640
    assert len(everything(StdinSource(16000, 16000, pipe.stream))) == 0  # the end, and not one without a beginning
    pipe.close()


def test_stdin_opened_again_within_a_sample_is_no_noise() -> None:
    reading, writing = os.pipe()
    sent = np.arange(100, dtype="<i2") * 101
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as program:
        program.write(sent.tobytes()[:33])
        first = StdinSource(16000, 16000, stream)
        heard = next(iter(first)).samples
        first.close()
        program.write(sent.tobytes()[33:])
        program.close()
        again = everything(StdinSource(16000, 16000, stream))
    np.testing.assert_array_equal(np.concatenate([heard, again]) * 32768, sent)


def test_a_reader_of_stdin_that_stalled_leaves_its_half_of_a_sample_to_the_next() -> None:
    reading, writing = os.pipe()
    sent = np.arange(100, dtype="<i2") * 101
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as program:
        first = StdinSource(16000, 16000, stream, Pieces(50, 50))
        heard: list[Chunk] = []
        stalls = threading.Thread(target=lambda: heard.extend(first))
        stalls.start()
        program.write(sent.tobytes()[:33])
        time.sleep(0.05)
        first.close()  # it does not notice at once, and the next one does not wait for its thread
        again: list[Chunk] = []
        goes_on = threading.Thread(target=lambda: again.extend(StdinSource(16000, 16000, stream)))
        goes_on.start()
        stalls.join()
        program.write(sent.tobytes()[33:])
        program.close()
        goes_on.join()
    samples = np.concatenate([chunk.samples for chunk in heard + again])
    np.testing.assert_array_equal(samples * 32768, sent)


def test_stdin_that_is_closed_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="standard input is closed: pipe raw PCM into it"):
        StdinSource(16000, 16000)


def test_stdin_that_is_only_written_to_says_what_failed(tmp_path: Path) -> None:
    written = os.open(tmp_path / "written", os.O_WRONLY | os.O_CREAT)
    with os.fdopen(written, "rb") as stream, pytest.raises(AudioError, match="cannot be read: Bad file descriptor"):
        list(StdinSource(16000, 16000, stream))


def test_half_a_sample_at_the_end_is_dropped() -> None:
    assert len(everything(stdin_of(b"\x00\x01\x02"))) == 1


def test_terminal_is_not_taken_for_sound() -> None:
    master, slave = os.openpty()
    with os.fdopen(master, "rb"), os.fdopen(slave, "rb") as terminal, pytest.raises(UsageError, match="terminal"):
        StdinSource(16000, 16000, terminal)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("gopher://camera", "no source 'gopher:'; the sources are: .*file:PATH.*stdin.*mic"),
        ("stdin:?rate=0", "whole number above zero, not '0'"),
        ("stdin:?rate=fast", "whole number above zero, not 'fast'"),
        ("stdin:?channels=2", "only the option rate"),
        ("stdin:16000", "only the option rate"),
    ],
)
def test_uri_that_makes_no_sense(uri: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_source(uri, 16000)


def test_file_whose_name_looks_like_a_uri(tmp_path: Path, recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recording.rename(tmp_path / "take:1.wav")
    assert len(everything(open_source("take:1.wav", 16000, fast=True))) == 8000


def test_resampler_refuses_a_rate_of_zero_and_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="above zero, found 0 Hz"):
        Resampler(0, 16000)
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(MissingDependencyError, match=r"edgernn\[audio\]"):
        Resampler(8000, 16000)
    assert Resampler(8000, 8000).push(np.ones(3, np.float32)).tolist() == [1, 1, 1]


@pytest.fixture
def fake_sounddevice(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    hub = sounddevice_of()
    monkeypatch.setitem(sys.modules, "sounddevice", hub)
    monkeypatch.setattr(microphone, "_portaudio", microphone._PortAudio())
    return hub


def take(source: MicrophoneSource, count: int) -> list[Any]:
    chunks = []
    for chunk in source:
        chunks.append(chunk)
        if len(chunks) == count:
            break
    source.close()
    return chunks


@pytest.mark.parametrize("name", ["", "1", "USB"])
def test_microphone_delivers_every_block(name: str, fake_sounddevice: SimpleNamespace) -> None:
    chunks = take(MicrophoneSource(name, 16000), 20)
    np.testing.assert_array_equal(
        np.concatenate([chunk.samples for chunk in chunks]), np.repeat(np.arange(20) / 1000, 320).astype(np.float32)
    )
    assert all(chunk.lost == 0 for chunk in chunks)
    assert fake_sounddevice.streams[0].closed


def test_blocks_of_a_microphone_end_where_pieces_do(fake_sounddevice: SimpleNamespace) -> None:
    fake_sounddevice.rates = {48000}
    source = MicrophoneSource("", 48000, Pieces(240, 640))
    assert [len(chunk.samples) for chunk in take(source, 4)] == [240, 640, 640, 640]


def test_blocks_of_a_microphone_come_together_but_not_over_a_gap(fake_sounddevice: SimpleNamespace) -> None:
    fake_sounddevice.overflows = {6: 160}
    counts = itertools.chain([1, 3], itertools.repeat(4))
    source = MicrophoneSource("", 16000, Pieces(100, 320, lambda: next(counts)))
    chunks = take(source, 5)
    assert [len(chunk.samples) for chunk in chunks] == [100, 3 * 320, 2 * 320, 4 * 320, 4 * 320]
    assert [chunk.lost for chunk in chunks] == [0, 0, 0, 160, 0]
    found = np.concatenate([chunk.samples for chunk in chunks])
    np.testing.assert_array_equal(found, np.repeat(np.arange(14) / 1000, 320).astype(np.float32)[220:])


def test_microphone_counts_what_portaudio_dropped(fake_sounddevice: SimpleNamespace) -> None:
    fake_sounddevice.overflows = {3: 160}
    lost = [chunk.lost for chunk in take(MicrophoneSource("", 16000), 20)]
    assert lost[3] == 160
    assert sum(lost) == 160


def test_callback_never_waits_and_what_a_slow_reader_missed_is_counted(fake_sounddevice: SimpleNamespace) -> None:
    fake_sounddevice.blocks = 255
    source = MicrophoneSource("", 16000)
    stream = fake_sounddevice.streams[0]
    stream._thread.join()  # all 255 blocks, and nobody has read one
    iterator = iter(source)
    for _ in range(250):  # the queue holds five seconds
        assert next(iterator).lost == 0
    flags, times = SimpleNamespace(input_overflow=False), SimpleNamespace(inputBufferAdcTime=9.0)
    stream._callback(np.zeros((320, 1), np.float32), 320, times, flags)
    assert next(iterator).lost == 5 * 320
    source.close()


def test_microphone_without_the_rate_is_resampled(fake_sounddevice: SimpleNamespace) -> None:
    fake_sounddevice.rates = {48000}
    fake_sounddevice.overflows = {10: 480}
    chunks = take(MicrophoneSource("", 16000), 20)
    samples = np.concatenate([chunk.samples for chunk in chunks])
    assert 20 * 320 - 600 < len(samples) <= 20 * 320
    assert sum(chunk.lost for chunk in chunks) == 160


def test_unplugged_microphone_is_an_error(fake_sounddevice: SimpleNamespace) -> None:
    fake_sounddevice.unplugs_at_end = True
    with pytest.raises(AudioError, match="still plugged in"):
        list(MicrophoneSource("", 16000))


def test_microphone_that_does_not_start_is_given_back(
    fake_sounddevice: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: FakeStream) -> None:
        raise PortAudioError("Unanticipated host error")

    monkeypatch.setattr(FakeStream, "start", fail)
    with pytest.raises(AudioError, match="Unanticipated"):
        MicrophoneSource("USB", 16000)
    assert fake_sounddevice.streams[0].closed


def test_devices_are_looked_for_anew_once_no_microphone_is_open(fake_sounddevice: SimpleNamespace) -> None:
    other = MicrophoneSource("USB", 16000)
    fake_sounddevice.begun.clear()
    for _ in range(2):
        with pytest.raises(AudioError):
            MicrophoneSource("kitchen", 16000)
    assert fake_sounddevice.begun == []  # it would end the stream of the other one
    other.close()
    other.close()
    MicrophoneSource("USB", 16000).close()
    MicrophoneSource("USB", 16000).close()
    assert fake_sounddevice.begun == ["end", "begin"]


def test_microphone_that_is_not_there(fake_sounddevice: SimpleNamespace) -> None:
    with pytest.raises(AudioError, match=r"no microphone 'kitchen' .*--list-devices"):
        MicrophoneSource("kitchen", 16000)
    assert list_microphones() == [(1, "USB mic", 1, 48000)]


def test_portaudio_and_sounddevice_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingDependencyError, match=r"edgernn\[audio\]"):
        MicrophoneSource("", 16000)
    monkeypatch.delitem(sys.modules, "sounddevice")

    class NoPortAudio:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.setattr(sys, "meta_path", [NoPortAudio(), *sys.meta_path])
    with pytest.raises(AudioError, match="sudo apt install libportaudio2"):
        MicrophoneSource("", 16000)


def test_microphone_that_was_plugged_in_while_another_is_open_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_sounddevice: SimpleNamespace
) -> None:
    """PortAudio sees no other devices than at its beginning, but that of another process does."""
    (tmp_path / "sounddevice.py").write_text(
        "def query_devices(name, kind):\n    assert (name, kind) == ('new', 'input')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(AudioError, match="no microphone 'new'"):
        find_microphone("new")
    with contextlib.closing(open_source("mic:USB", 16000)):
        find_microphone("new")
        with pytest.raises(AudioError, match="no microphone 'other'"):
            find_microphone("other")
