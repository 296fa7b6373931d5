"""Pictures: files of videos and images, MJPEG from a server on this machine; a stand-in for V4L2 and for picamera2.

There is no camera here: what talks to one was not run on hardware.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgernn.devices.secret import Secret
from edgernn.devices.sources import open_source
from edgernn.devices.sources.camera import Thinner, shown
from edgernn.devices.sources.pictures import PictureOptions, Preparer
from edgernn.errors import SourceError, UsageError
from edgernn.stream import Chunk, Source
from tests.devices.needs import needs
from tests.devices.senders import NO_GSTREAMER, MjpegCamera, RtspCamera, picture, write_video
from tests.devices.stand_ins import picamera2_of

SHAPE = (24, 32, 3)
needs_gstreamer = needs(NO_GSTREAMER, "gir1.2-gst-rtsp-server-1.0")


def blues(source: Source) -> list[int]:
    return [round(float(frame[..., 2].mean()) * 255) for chunk in source for frame in chunk.samples]


def test_folder_of_pictures_comes_by_name(tmp_path: Path) -> None:
    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(40 * number))
    (tmp_path / "3a.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("nor this")
    chunks = list(open_source(f"folder:{tmp_path}", 10, fast=True, shape=SHAPE))
    assert blues(open_source(f"folder:{tmp_path}", 10, fast=True, shape=SHAPE)) == [0, 40, 80, 120, 160, 200]
    assert [dict(chunk.causes) for chunk in chunks if chunk.lost] == [{"unreadable": 1}]


def test_video_is_thinned_out_to_the_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.avi")
    found = blues(open_source(f"file:{path}?rate=10", 10, fast=True, shape=SHAPE))
    assert len(found) in (20, 21)
    np.testing.assert_allclose(np.diff(found), 12, atol=8)
    begin = time.monotonic()
    assert len(blues(open_source(str(path), 300, shape=SHAPE))) == 60
    assert 0.18 < time.monotonic() - begin < 2
    path.write_bytes(b"no video")
    with pytest.raises(SourceError, match="is no video that can be read"):
        open_source(str(path), 10, shape=SHAPE)


@pytest.fixture
def camera() -> Iterator[MjpegCamera]:
    one = MjpegCamera()
    yield one
    one.pull()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", pytest.param("rtsp", marks=needs_gstreamer)])
def test_password_of_a_camera_is_asked_for_and_not_shown(scheme: str, camera: MjpegCamera) -> None:
    place = f"127.0.0.1:{camera.port}/video.mjpg"
    with ExitStack() as stack:
        if scheme == "rtsp":
            server = RtspCamera()
            stack.callback(server.pull)
            place = f"127.0.0.1:{server.port}/1"
        for wrong in ("", "anna:wrong@"):
            with pytest.raises(SourceError, match="cannot be opened") as caught:
                open_source(f"{scheme}://{wrong}{place}", 100, shape=SHAPE)
            assert "wrong" not in str(caught.value)
        table = {"user": "anna", "password": Secret("text", "p@ss")}
        source = open_source(f"{scheme}://{place}", 100, options=table, shape=SHAPE)
        assert len(next(iter(source)).samples) == 1
        source.close()


@pytest.mark.slow
def test_newest_picture_waits_for_a_slow_reader_and_the_others_are_counted(camera: MjpegCamera) -> None:
    table = {"user": "anna", "password": Secret("text", "p@ss")}
    source = open_source(f"http://127.0.0.1:{camera.port}/v.mjpg", 200, options=table, shape=SHAPE)
    chunks = iter(source)
    next(chunks)
    time.sleep(0.7)
    before = time.monotonic()
    chunk = next(chunks)
    assert len(chunk.samples) == 1
    assert before - chunk.time_s < 0.5
    assert 20 < chunk.lost == chunk.causes["skipped"]
    source.close()


def test_v4l2_camera_is_asked_for_its_size_and_fails_when_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[int, float] = {}

    class Capture:
        def __init__(self, place: Any, backend: int) -> None:
            assert backend == cv2.CAP_V4L2
            self.opened, self.left = place == 0, 5

        def isOpened(self) -> bool:
            return bool(self.opened)

        def set(self, key: int, value: float) -> None:
            asked[key] = value

        def grab(self) -> bool:
            time.sleep(0.02)
            self.left -= 1
            return self.left >= 0

        def retrieve(self) -> tuple[bool, np.ndarray | None]:
            return (False, None) if self.left == 3 else (True, picture(100))

        def release(self) -> None:
            asked[-1] = 1

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    with pytest.raises(SourceError, match="camera:1 cannot be opened"):
        open_source("camera:1", 100, shape=SHAPE)
    asked.clear()
    chunks: list[Chunk] = []
    with pytest.raises(SourceError, match="gives no more pictures"):
        chunks.extend(open_source("camera:0?width=640&height=480&fps=30", 100, shape=SHAPE))
    assert asked == {cv2.CAP_PROP_FRAME_WIDTH: 640, cv2.CAP_PROP_FRAME_HEIGHT: 480, cv2.CAP_PROP_FPS: 30, -1: 1}
    assert (sum(len(chunk.samples) for chunk in chunks), sum(chunk.lost for chunk in chunks)) == (4, 1)


def test_picamera2_is_configured_as_its_manual_says(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setitem(sys.modules, "picamera2", None)
    with pytest.raises(SourceError, match="apt install python3-picamera2"):
        open_source("picamera2:", 100, shape=SHAPE)
    monkeypatch.setitem(sys.modules, "picamera2", picamera2_of(calls))
    source = open_source("picamera2:1?fps=30", 100, shape=SHAPE)
    assert float(next(iter(source)).samples[0, 0, 0, 2]) == pytest.approx(100 / 255)
    source.close()
    settings = ("create_video_configuration", ("main", {"size": (640, 480), "format": "RGB888"}))
    assert calls == [
        1,
        settings,
        ("configure", None),
        ("set_controls", {"FrameRate": 30.0}),
        ("start",),
        ("stop",),
        ("close",),
    ]


def test_pictures_become_what_the_model_takes() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :40], image[:, 40:] = (255, 0, 0), (0, 0, 255)  # blue, then red
    rgb = Preparer(PictureOptions(), (4, 8, 3)).frame(image)
    np.testing.assert_array_equal(rgb[0, 0, [0, 7]], [[0, 0, 1], [1, 0, 0]])
    first = Preparer(PictureOptions(colors="bgr", mean=("0.5",), std=("0.5",)), (3, 4, 8)).frame(image)
    np.testing.assert_array_equal(first[0, :, 0, 0], [1, -1, -1])
    gray = Preparer(PictureOptions(size="8x4"), (32,)).frame(image)
    np.testing.assert_allclose(gray[0, [0, 7]], [0.114, 0.299], atol=3e-3)
    assert Preparer(PictureOptions(), (4, 8)).frame(image).shape == (1, 4, 8)
    cropped = Preparer(PictureOptions(fit="crop", std=("1", "2", "4")), (8, 8, 3)).frame(image)
    np.testing.assert_array_equal(cropped[0, 0, [0, 7]], [[0, 0, 0.25], [1, 0, 0]])
    padded = Preparer(PictureOptions(fit="pad"), (8, 8, 3)).frame(image)
    assert padded[0, [0, 7]].max() == 0
    assert padded[0, 2:6, 0, 2].min() == 1


@pytest.mark.parametrize(
    ("options", "shape", "words"),
    [
        ({}, (32,), "no picture: say the size"),
        ({"size": "9x9"}, (32,), "has not as many pixels"),
        ({"colors": "gray"}, (4, 4, 3), "colors 'gray'"),
        ({"fit": "squeeze"}, (4, 4), "fit 'squeeze'"),
        ({"mean": ("1", "2")}, (4, 4, 3), "must be one number or 3"),
        ({"std": ("0",)}, (4, 4), "must not be zero"),
        ({"layout": "chw"}, (4, 4, 3), "no picture"),
        ({}, (2, 3, 4, 5), "no picture"),
    ],
)
def test_pictures_that_cannot_become_it(options: dict[str, Any], shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Preparer(PictureOptions(**options), shape)


def test_thinner_keeps_the_rate_of_an_uneven_camera() -> None:
    rng, thinner = np.random.default_rng(0), Thinner(10)
    times = np.arange(3000) / 30 + rng.uniform(-0.01, 0.01, 3000)
    assert abs([thinner.takes(time_s) for time_s in times].count(True) - 1000) <= 2
    same = Thinner(30)
    assert [same.takes(time_s) for time_s in times].count(True) >= 2990


def test_password_of_a_camera_is_not_shown() -> None:
    assert shown("rtsp://anna:p@ss@host/1") == "rtsp://host/1"
