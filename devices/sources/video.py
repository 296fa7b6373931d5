"""Recorded pictures: a video file (`file:PATH`), or a folder of pictures, by name (`folder:PATH`)."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.devices.sources.camera import Thinner
from edgernn.devices.sources.pictures import PictureOptions, Preparer, opencv
from edgernn.errors import SourceError
from edgernn.stream import Chunk

__all__ = ["ImagesSource", "VideoOptions", "VideoSource"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class VideoOptions(PictureOptions):
    """Options of the source."""

    rate: float | None = None
    """Pictures a second; by default the model's."""


class _Recorded(ABC):
    """Pictures at their own pace, or as fast as they are taken; one that cannot be read is counted."""

    def __init__(self, options: PictureOptions, shape: tuple[int, ...], rate_hz: float, fast: bool) -> None:
        self.rate_hz = rate_hz
        self._shape, self._fast = shape, fast
        self._preparer = Preparer(options, shape)
        self._closed = threading.Event()

    @abstractmethod
    def _pictures(self) -> Iterator[NDArray[np.uint8] | None]:
        """Yield each, None for one that cannot be read."""

    def __iter__(self) -> Iterator[Chunk]:
        due, lost = time.monotonic(), 0
        for picture in self._pictures():
            due += 1 / self.rate_hz
            if self._closed.wait(0 if self._fast else max(0.0, due - time.monotonic())):
                return
            if picture is None:
                lost += 1
                continue
            yield Chunk(self._preparer.frame(picture), due, lost, {"unreadable": lost} if lost else {})
            lost = 0
        if lost:
            yield Chunk(np.zeros((0, *self._shape), np.float32), due, lost, {"unreadable": lost})

    def close(self) -> None:
        """End the iteration, also from another thread."""
        self._closed.set()


class VideoSource(_Recorded):
    """A video, thinned out to the rate where it has more pictures a second."""

    def __init__(
        self, path: str, options: VideoOptions, shape: tuple[int, ...], rate_hz: float, fast: bool = False
    ) -> None:
        super().__init__(options, shape, rate_hz, fast)
        if not Path(path).is_file():
            raise SourceError(f"the video {path} is not there, or is no file")
        self._path = path
        self._capture().release()

    def _capture(self) -> Any:
        cv2 = opencv()
        capture = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise SourceError(f"the file {self._path} is no video that can be read")
        return capture

    def _pictures(self) -> Iterator[NDArray[np.uint8] | None]:
        capture = self._capture()
        try:
            fps = capture.get(opencv().CAP_PROP_FPS)
            thinner, number = Thinner(self.rate_hz), 0
            while not self._closed.is_set() and capture.grab():
                if not 0 < fps < float("inf") or thinner.takes(number / fps):
                    fine, picture = capture.retrieve()
                    yield picture if fine else None
                number += 1
        finally:
            capture.release()


class ImagesSource(_Recorded):
    """The pictures of a folder."""

    def __init__(
        self, path: str, options: VideoOptions, shape: tuple[int, ...], rate_hz: float, fast: bool = False
    ) -> None:
        super().__init__(options, shape, rate_hz, fast)
        try:
            self._files = [one for one in sorted(Path(path).iterdir()) if one.suffix.lower() in SUFFIXES]
        except OSError as error:
            raise SourceError(f"the folder {path} cannot be read: {error.strerror}") from error
        if not self._files:
            raise SourceError(f"the folder {path} has no picture: expected files named {', '.join(SUFFIXES)}")

    def _pictures(self) -> Iterator[NDArray[np.uint8] | None]:
        cv2 = opencv()
        for path in self._files:
            try:
                data = np.frombuffer(path.read_bytes(), np.uint8)
                yield cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
            except (OSError, cv2.error):
                yield None
