"""Every source, each scheme of URIs, through the public checks of `edgernn.testing`."""

from __future__ import annotations

import io
import itertools
import json
import os
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest

from edgernn.devices.secret import Secret
from edgernn.devices.sources import OF_FRAMES, OF_SOUND, microphone, open_source
from edgernn.stream import Source
from edgernn.testing import check_source
from tests.devices.bench import ANNA, Bench, Row, Table, mosquitto, slow, socat
from tests.devices.mosquitto import Listener, until
from tests.devices.needs import needs
from tests.devices.senders import (
    NO_GSTREAMER,
    RATE,
    Grower,
    MjpegCamera,
    Pipe,
    RtspCamera,
    Sender,
    Wire,
    free_port,
    level,
    picture,
    record,
    rtp,
    write_video,
)
from tests.devices.stand_ins import IioDevice, V4l2, picamera2_of, sounddevice_of
from tests.devices.test_microphone import VirtualMicrophone
from tests.devices.test_microphone import missing as missing_sound_tools

SHAPE = (24, 32, 3)
CAMERA = {"user": "anna", "password": Secret("text", "p@ss")}
source = Table()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Bench]:
    monkeypatch.setattr("edgernn.testing.sources.QUIET_S", 0.1)
    with ExitStack() as stack:
        yield Bench(tmp_path, monkeypatch, stack, capsys)


# Sound


@source("file: a recording")
def _(bench: Bench) -> Mapping[str, Any]:
    path = record(bench.folder / "a.wav", 0.5, 0.5)
    return {"open_source": lambda: open_source(f"file:{path}", RATE, fast=True), "limit": 20}


@source("file: a recording at its own pace")
def _(bench: Bench) -> Mapping[str, Any]:
    path = record(bench.folder / "a.wav", 0.5, 0.1)
    return {"open_source": lambda: open_source(f"file:{path}", RATE)}


@source("folder: of recordings")
def _(bench: Bench) -> Mapping[str, Any]:
    for name in "abc":
        record(bench.folder / f"{name}.wav", 0.25)
    return {"open_source": lambda: open_source(f"folder:{bench.folder}", RATE, fast=True)}


@source("folder: of recordings, followed and taken away")
def _(bench: Bench) -> Mapping[str, Any]:
    bench.patch.setattr("edgernn.devices.sources.folder.LOOK_S", 0.02)
    folder, numbers = bench.folder / "in", itertools.count()
    folder.mkdir()

    def give() -> int:
        record(folder / f"{next(numbers):05}.wav", 0.5)
        return 1600

    give()
    return {
        "open_source": lambda: open_source(f"folder:{folder}?follow", RATE, fast=True),
        "limit": 8,
        "give": give,
        "break_": lambda: folder.rename(bench.folder / "aside"),
        "mend": lambda: (bench.folder / "aside").rename(folder),
    }


@source("stdin: a pipe that is open")
def _(bench: Bench) -> Mapping[str, Any]:
    pipe = Pipe()
    bench.stack.callback(pipe.close)
    bench.patch.setattr(sys, "stdin", SimpleNamespace(buffer=pipe.stream))
    return {"open_source": lambda: open_source("stdin:", RATE), "limit": 10, "give": pipe.give, "flood": 80}


@source("stdin: a pipe that ends")
def _(bench: Bench) -> Mapping[str, Any]:
    def open_() -> Source:
        stream = io.BufferedReader(io.BytesIO(level(9).tobytes()))
        bench.patch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
        return open_source("-", RATE)

    return {"open_source": open_}


@source("mic: a stand-in, unplugged")
def _(bench: Bench) -> Mapping[str, Any]:
    hub = sounddevice_of()
    bench.patch.setitem(sys.modules, "sounddevice", hub)
    bench.patch.setattr(microphone, "_portaudio", microphone._PortAudio())

    def unplug() -> None:
        hub.unplugged = True
        for stream in hub.streams:
            stream.active = False

    def plug() -> None:
        hub.unplugged = False

    return {"open_source": lambda: open_source("mic:USB", RATE), "limit": 10, "break_": unplug, "mend": plug}


@source("mic: PulseAudio's null sink", slow, needs(bool(missing_sound_tools), " ".join(missing_sound_tools)))
def _(bench: Bench) -> Mapping[str, Any]:
    bench.patch.setattr(microphone, "SILENT_S", 3.0)  # it begins to deliver after one
    servers = [VirtualMicrophone(bench.folder / "pulse")]
    bench.stack.callback(lambda: servers[-1].close())
    for name, value in servers[0].environment.items():
        bench.patch.setenv(name, value)
    microphone._portaudio.failed()  # it looks for devices anew, in this environment
    bench.stack.callback(microphone._portaudio.failed)
    return {
        "open_source": lambda: open_source("mic:pulse", RATE),
        "limit": 20,
        "within_s": 20,
        "break_": lambda: servers[-1].close(),
        "mend": lambda: servers.append(VirtualMicrophone(bench.folder / "pulse")),
    }


@source("udp:")
def _(bench: Bench) -> Mapping[str, Any]:
    return datagrams(bench, "udp", lambda number: level(number % 1000).astype("<i2").tobytes())


@source("rtp:")
def _(bench: Bench) -> Mapping[str, Any]:
    return datagrams(bench, "rtp", lambda number: rtp(number, level(number % 1000), sender=number // 10_000))


def datagrams(bench: Bench, scheme: str, form: Callable[[int], bytes]) -> Mapping[str, Any]:
    bench.patch.setattr("edgernn.devices.sources.udp.FRESH_S", 0.05)
    bench.patch.setattr("edgernn.devices.sources.udp.LOOK_S", 0.02)
    port = free_port()
    sender = Sender(port, form)
    bench.stack.callback(sender.close)
    return {
        "open_source": lambda: open_source(f"{scheme}://127.0.0.1:{port}?rate={RATE}", RATE),
        "limit": 20,
        "give": sender.give,
        "flood": 400,
        "most": 5 * RATE,
        "break_": sender.close,
        "mend": sender.begin,
    }


# Values


@source("csv:")
def _(bench: Bench) -> Mapping[str, Any]:
    path = bench.folder / "a.csv"
    path.write_text("a,b\n" + "1,2\n" * 400)
    return {"open_source": lambda: open_source(f"csv:{path}", 2000, shape=(2,)), "limit": 8}


@source("csv: followed and rotated")
def _(bench: Bench) -> Mapping[str, Any]:
    grower = Grower(bench.folder / "a.csv")
    grower.path.write_text("a,b\n")
    return following(bench, grower, lambda: grower.path.rename(bench.folder / "old.csv"))


@source("csv: followed and truncated")
def _(bench: Bench) -> Mapping[str, Any]:
    grower = Grower(bench.folder / "a.csv")
    grower.path.write_text("a,b\n")
    return following(bench, grower, lambda: os.truncate(grower.path, 0))


def following(bench: Bench, grower: Grower, break_: Callable[[], object]) -> Mapping[str, Any]:
    bench.patch.setattr("edgernn.devices.sources.csv_file.LOOK_S", 0.01)
    return {
        "open_source": lambda: open_source(f"csv:{grower.path}?columns=a,b&follow&start=begin", 50, shape=(2,)),
        "limit": 8,
        "give": grower.give,
        "break_": break_,
        "mend": lambda: grower.path.write_text("a,b\n"),
    }


@source("file: a table that nobody reads while it grows")
def _(bench: Bench) -> Mapping[str, Any]:
    grower = Grower(bench.folder / "a.csv")
    grower.path.write_text("a,b\n")
    bench.patch.setattr("edgernn.devices.sources.csv_file.LOOK_S", 0.01)
    uri = f"file:{grower.path}?follow"
    return {"open_source": lambda: open_source(uri, 50, shape=(2,)), "limit": 4, "give": grower.give, "flood": 300}


@source("mqtt:", slow, mosquitto)
def _(bench: Bench) -> Mapping[str, Any]:
    return values_of_a_broker(bench, False)


@source("mqtts:", slow, mosquitto)
def _(bench: Bench) -> Mapping[str, Any]:
    return values_of_a_broker(bench, True)


def values_of_a_broker(bench: Bench, tls: bool) -> Mapping[str, Any]:
    broker = bench.broker()
    teller, numbers = Listener(broker, "nothing"), itertools.count()
    bench.stack.callback(teller.close)

    def give() -> int:
        payload = json.dumps({"a": next(numbers), "b": {"c": 1.5}})
        teller.client.publish("hall/imu", payload, qos=1).wait_for_publish(5)
        return 1

    def mend() -> None:
        before = teller.subscribed
        broker.start()
        until(lambda: teller.subscribed > before)

    uri, table = broker.uri("+/imu", tls) + "?fields=a,b.c", ANNA | ({"ca": str(broker.certificates.ca)} if tls else {})
    return {
        "open_source": lambda: open_source(uri, 5, options=table, shape=(2,)),
        "limit": 8,
        "give": give,
        "flood": 1200,
        "most": 1000,
        "break_": broker.kill,
        "mend": mend,
    }


@source("serial: socat", socat)
def _(bench: Bench) -> Mapping[str, Any]:
    wire = Wire(bench.folder)
    bench.stack.callback(wire.pull)

    def open_() -> Source:
        opened = open_source(f"serial:{wire.ours}?baud=9600", 50, shape=(2,))
        wire.write(b"in the middle\n")  # what a device says when it is opened in the middle of a line
        return opened

    return {
        "open_source": open_, "limit": 8, "give": wire.give, "flood": 1200, "most": 1000, "break_": wire.pull,
        "mend": wire.plug,
    }  # fmt: skip


@source("iio: a tree of files")
def _(bench: Bench) -> Mapping[str, Any]:
    device = IioDevice(bench.folder)
    uri = f"iio:bmi160?channels=accel_x,temp&rate=200&root={bench.folder}"
    return {
        "open_source": lambda: open_source(uri, 200, shape=(2,)), "limit": 20, "break_": device.unplug,
        "mend": device.plug,
    }  # fmt: skip


# Pictures


@source("folder: of pictures")
def _(bench: Bench) -> Mapping[str, Any]:
    for number in range(6):
        cv2.imwrite(str(bench.folder / f"{number}.png"), picture(40 * number))
    (bench.folder / "3a.jpg").write_bytes(b"no picture")
    return {"open_source": lambda: open_source(f"folder:{bench.folder}", 500, shape=SHAPE)}


@source("file: a video")
def _(bench: Bench) -> Mapping[str, Any]:
    path = write_video(bench.folder / "video.avi")
    return {"open_source": lambda: open_source(f"file:{path}", 1000, shape=SHAPE)}


@source("camera: a stand-in, unplugged")
def _(bench: Bench) -> Mapping[str, Any]:
    camera = v4l2(bench)
    return {**camera_of("camera:0"), "break_": camera.unplug, "mend": camera.plug}


@source("camera: a stand-in that hangs")
def _(bench: Bench) -> Mapping[str, Any]:
    bench.patch.setattr("edgernn.devices.sources.inbox.JOIN_S", 0.1)
    camera = v4l2(bench)
    return {**camera_of("camera:0"), "break_": camera.runs.clear, "mend": camera.runs.set}


def v4l2(bench: Bench) -> V4l2:
    camera = V4l2()
    bench.patch.setattr(cv2, "VideoCapture", camera.capture)
    return camera


def camera_of(uri: str, **table: Any) -> Mapping[str, Any]:
    return {"open_source": lambda: open_source(uri, 100, options=table, shape=SHAPE), "limit": 10}


@source("picamera2: a stand-in")
def _(bench: Bench) -> Mapping[str, Any]:
    bench.patch.setitem(sys.modules, "picamera2", picamera2_of([]))
    return camera_of("picamera2:0")


@source("http: MJPEG", slow)
def _(bench: Bench) -> Mapping[str, Any]:
    return mjpeg(bench, "http", None)


@source("https: MJPEG", slow)
def _(bench: Bench) -> Mapping[str, Any]:
    return mjpeg(bench, "https", bench.tls()[0])


def mjpeg(bench: Bench, scheme: str, tls: ssl.SSLContext | None) -> Mapping[str, Any]:
    camera = MjpegCamera(tls)
    bench.stack.callback(camera.pull)
    place = camera_of(f"{scheme}://127.0.0.1:{camera.port}/video.mjpg?quality=3", **CAMERA)
    return {**place, "break_": camera.pull, "mend": camera.plug}


@source("rtsp: GStreamer", slow, needs(NO_GSTREAMER, "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good"))
def _(bench: Bench) -> Mapping[str, Any]:
    camera = RtspCamera()
    bench.stack.callback(camera.pull)
    return {**camera_of(f"rtsp://127.0.0.1:{camera.port}/1", **CAMERA), "break_": camera.pull, "mend": camera.plug}


@pytest.mark.parametrize("row", source.params())
def test_it_passes_the_checks(row: Row, bench: Bench) -> None:
    check_source(**row(bench))


def test_no_source_is_left_out() -> None:
    assert source.schemes == {*OF_SOUND, *OF_FRAMES}
