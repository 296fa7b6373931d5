"""Folders of recordings, RTP and UDP: each against files and sockets of this machine."""

from __future__ import annotations

import logging
import random
import shutil
import struct
import threading
from fcntl import ioctl
from pathlib import Path
from termios import FIONREAD

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgernn.devices.sources import open_source
from edgernn.devices.sources.folder import FolderSource
from edgernn.devices.sources.rtp import Packet, Reorder, RtpOptions, RtpSource, read_packet
from edgernn.devices.sources.udp import Address, UdpOptions, UdpSource
from edgernn.errors import AudioError, SourceError, UsageError
from edgernn.stream import Source
from tests.devices.mosquitto import until
from tests.devices.senders import RATE, SIZE, Sender, level, record, rtp


def take(source: Source, samples: int) -> tuple[np.ndarray, int, dict[str, int]]:
    """Return what comes until so many samples came or were lost."""
    parts, lost, causes = [], 0, dict[str, int]()
    for chunk in source:
        parts.append(chunk.samples)
        lost += chunk.lost
        for cause, count in chunk.causes.items():
            causes[cause] = causes.get(cause, 0) + count
        if sum(map(len, parts)) + lost >= samples:
            break
    return np.concatenate(parts), lost, causes


def test_rtp_puts_packets_in_order_and_counts_those_that_are_lost() -> None:
    source = RtpSource(Address("127.0.0.1", 0), RtpOptions(), RATE)
    sender = Sender(source.port, lambda n: b"")
    order = [65533, 65535, 65534, 65536, 65536, 65539, 65540, 65538, 65541, 65542, 65543]  # 65537 never comes
    for number in order:
        sender.send(rtp(number, level(number - 65533)))
    sender.send(b"\x80\x60 too short"[:11])
    sender.send(rtp(1, level(99), sender=8))  # somebody else
    sender.send(rtp(65544, level(11), kind=0))  # µ-law
    sender.send(rtp(65545, level(12)))
    for number in range(65546, 65550):
        sender.send(rtp(number, level(number - 65533)))
    samples, lost, causes = take(source, 16 * SIZE)
    source.close()
    sender.close()
    heard = np.rint(samples.reshape(-1, SIZE)[:, 0] * 32768).astype(int).tolist()
    assert heard == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15]
    assert lost == 2 * SIZE
    assert causes == {"lost": 2 * SIZE, "malformed": 1, "stranger": 1, "other payload": 1}


def test_rtp_of_a_static_type_has_its_own_rate_and_channels() -> None:
    source = RtpSource(Address("127.0.0.1", 0), RtpOptions(), 44100)
    sender = Sender(source.port, lambda n: b"")
    stereo = np.tile(np.array([1000, 3000]), SIZE)
    for number in range(3):
        sender.send(rtp(number, stereo, kind=10))
    samples, lost, _ = take(source, 3 * SIZE)
    source.close()
    sender.close()
    assert (len(samples), lost) == (3 * SIZE, 0)
    np.testing.assert_allclose(samples, 2000 / 32768, rtol=1e-6)


def test_another_sender_is_heard_when_the_first_has_fallen_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgernn.devices.sources.udp.FRESH_S", 60.0)
    source = UdpSource(Address("127.0.0.1", 0), UdpOptions(channels=2), RATE)
    first, second = (Sender(source.port, lambda n: b"") for _ in range(2))
    first.send(np.repeat(level(100), 2).astype("<i2").tobytes())
    until(lambda: source._inbox._chunks)
    second.send(np.repeat(level(200), 2).astype("<i2").tobytes())
    second.send(b"odd")
    until(lambda: source._inbox._dropped == {"stranger": 1, "malformed": 1})
    monkeypatch.setattr("edgernn.devices.sources.udp.FRESH_S", 0.0)
    second.send(np.repeat(level(300), 2).astype("<i2").tobytes())
    samples, _, causes = take(source, 2 * SIZE)
    source.close()
    first.close()
    second.close()
    assert np.rint(samples[[0, -1]] * 32768).tolist() == [100, 300]
    assert causes == {"stranger": 1, "malformed": 1}


@pytest.mark.parametrize("scheme", ["udp", "rtp"])
def test_flood_that_the_kernel_drops_is_counted(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgernn.devices.sources.udp.KERNEL_BYTES", 20_000)
    taken, go = UdpSource._is_ours, threading.Event()

    def wait(source: UdpSource, sender: object) -> bool:
        go.wait(10)
        return taken(source, sender)

    monkeypatch.setattr(UdpSource, "_is_ours", wait)
    source = open_source(f"{scheme}://127.0.0.1:0", RATE)
    assert isinstance(source, UdpSource)
    sender = Sender(source.port, lambda n: level(1).astype("<i2").tobytes() if scheme == "udp" else rtp(n, level(1)))
    given = sum(sender.give() for _ in range(200))
    go.set()
    until(lambda: not any(ioctl(source._socket, FIONREAD, bytes(4))))  # what is dropped last is never told
    given += sum(sender.give() for _ in range(RtpOptions.window + 2))  # so many may overtake one that is late
    samples, lost, causes = take(source, given)
    source.close()
    sender.close()
    assert lost > 100 * SIZE
    assert len(samples) + lost == given
    assert causes == {"kernel overflow" if scheme == "udp" else "lost": lost}


@given(st.integers(0, 65535), st.integers(1, 6), st.data())
def test_reordering_within_the_window_loses_nothing(first: int, window: int, data: st.DataObject) -> None:
    """Each packet overtaken by `window` others at most; some lost: in order comes what came, each gap is told once."""
    gone = data.draw(st.sets(st.integers(1, 30), max_size=8))
    there = [number for number in range(40) if number not in gone]
    rng = random.Random(data.draw(st.integers(0, 1000)))
    late = {number: number + rng.uniform(0, window) for number in there}
    order = sorted(there, key=lambda number: late[number] if number else -1)
    reorder, found, missing = Reorder(window), list[int](), 0
    for number in order:
        for gap, packet in reorder.push(Packet((first + number) & 0xFFFF, number, 0, 96, b"")):
            found.append(packet.timestamp)
            missing += gap
    for gap, packet in reorder.flush():
        found.append(packet.timestamp)
        missing += gap
    assert found == there
    assert missing == len(gone)


@given(st.binary(max_size=60))
def test_whatever_comes_is_a_packet_or_refused(data: bytes) -> None:
    try:
        packet = read_packet(data)
    except ValueError:
        return
    assert len(packet.payload) <= len(data) - 12


def test_extension_padding_and_sources_of_a_packet_are_taken_off() -> None:
    body = b"\x00\x01\x00\x02"
    head = struct.pack("!BBHII", 0x80 | 0x30 | 2, 0x80 | 97, 5, 6, 7) + bytes(8) + struct.pack("!HH", 1, 1) + bytes(4)
    assert read_packet(head + body + b"\x00\x00\x03") == Packet(5, 6, 7, 97, body)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("rtp://127.0.0.1", "needs an address"),
        ("udp://:99999", "has no port that could be"),
        ("udp://127.0.0.1:5004?ratio=3", "no option 'ratio'"),
        ("rtp://127.0.0.1:5004?type=8", "payload types 10, 11 and 96 to 127, not 8"),
        ("mqtt://127.0.0.1/a", "gives frames, and the artifact takes sound"),
    ],
)
def test_sound_uris_that_make_no_sense(uri: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_source(uri, RATE)


def test_address_that_is_taken_is_an_error() -> None:
    source = UdpSource(Address("127.0.0.1", 0), UdpOptions(), RATE)
    with pytest.raises(AudioError, match="nobody can listen at"):
        open_source(f"udp://127.0.0.1:{source.port}", RATE)
    source.close()


def test_folder_plays_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, loud in (("b.wav", 0.25), ("a.wav", 0.125), ("d.wav", 0.5)):
        record(tmp_path / name, loud)
    (tmp_path / "c.wav").write_bytes(b"RIFF and nothing more")
    (tmp_path / "notes.txt").write_text("no sound")
    with caplog.at_level(logging.WARNING):
        chunks = list(open_source(str(tmp_path), RATE, fast=True))
    assert sorted({float(chunk.samples[0]) for chunk in chunks}) == [0.125, 0.25, 0.5]
    assert [float(chunk.samples[0]) for chunk in chunks[::5]] == [0.125, 0.25, 0.5]
    assert [dict(chunk.causes) for chunk in chunks if chunk.causes] == [{"unreadable": 1}]
    assert "c.wav" in caplog.text


def test_folder_that_is_followed_gives_what_comes_once_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgernn.devices.sources.folder.LOOK_S", 0.03)
    monkeypatch.setattr("edgernn.devices.sources.folder.IDLE_S", 0.05)
    record(tmp_path / "a.wav", 0.125)
    source = open_source(f"folder:{tmp_path}?follow", RATE, fast=True)
    assert isinstance(source, FolderSource)

    whole, look = record(tmp_path / "aside", 0.5).read_bytes(), FolderSource._recordings
    pieces = [b""] * 5 + [whole[start : start + 400] for start in range(0, len(whole), 400)]

    def grow_and_look(source: FolderSource) -> list[Path]:
        if pieces and (piece := pieces.pop(0)):
            with (tmp_path / "b.wav").open("ab") as file:
                file.write(piece)
        return look(source)

    monkeypatch.setattr(FolderSource, "_recordings", grow_and_look)
    heard, idle = dict[float, int](), 0
    for chunk in source:
        idle += chunk.idle
        if len(chunk.samples):
            heard[float(chunk.samples[0])] = heard.get(float(chunk.samples[0]), 0) + len(chunk.samples)
        if heard.get(0.5) == 1600 or idle > 100:
            source.close()
    assert heard == {0.125: 1600, 0.5: 1600}
    assert idle


def test_folder_remembers_nothing_of_what_is_gone(tmp_path: Path) -> None:
    source = open_source(f"folder:{tmp_path}?follow", RATE, fast=True)
    assert isinstance(source, FolderSource)
    for number in range(20):  # as a program's that writes aside and renames
        path = record(tmp_path / f"{number}.wav", 0.1)
        assert [source._is_whole(one) for one in source._recordings()] == [False]
        path.unlink()
    assert not source._recordings()
    assert not source._sizes


def test_folder_that_is_taken_away_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source = open_source(f"folder:{folder}?follow", RATE, fast=True)
    shutil.rmtree(folder)
    with pytest.raises(SourceError, match="cannot be read"):
        list(source)
    with pytest.raises(SourceError, match="cannot be read"):
        list(open_source(f"folder:{folder}?follow", RATE))
