"""Live pictures through OpenCV: `camera:0` (V4L2), `rtsp://…`, and MJPEG or whatever else FFmpeg reads at `http://…`.

A thread takes every picture from the camera, so that none is old; the newest one waits for the reader, the others are
counted. A camera that gives more than `rate` pictures a second is thinned out to that, which is no loss.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from edgernn.devices.secret import Secret
from edgernn.devices.sources.inbox import InboxSource
from edgernn.devices.sources.pictures import PictureOptions, Preparer, opencv
from edgernn.errors import SourceError

__all__ = ["CameraOptions", "CameraSource", "Thinner", "shown"]

EARLY = 0.5  # of a period: how long before it is due a picture is taken for it, since cameras are not even


@dataclass(frozen=True)
class CameraOptions(PictureOptions):
    """Options of the source."""

    rate: float | None = None
    """Pictures a second; by default the model's."""
    width: int | None = None
    """What a V4L2 camera is asked for; it may give another size."""
    height: int | None = None
    fps: float | None = None
    user: str | None = None
    password: Secret | None = None
    """For rtsp and http, beside those in the URI."""
    timeout: float = 5.0
    """Seconds to wait for a camera in the network."""


class Thinner:
    """Which pictures of a camera to take, to have `rate_hz` of them, evenly.

    >>> thinner = Thinner(10)
    >>> [n for n in range(10) if thinner.takes(n / 30)]
    [0, 2, 5, 8]
    """

    def __init__(self, rate_hz: float) -> None:
        self._period = 1 / rate_hz
        self._due: float | None = None

    def takes(self, time_s: float) -> bool:
        """Tell whether a picture of that time is taken."""
        if self._due is None or time_s > self._due + self._period:
            self._due = time_s
        if time_s < self._due - EARLY * self._period:
            return False
        self._due += self._period
        return True


class CameraSource(InboxSource):
    """What a camera shows now."""

    def __init__(self, uri: str, options: CameraOptions, shape: tuple[int, ...], rate_hz: float) -> None:
        super().__init__(f"the camera {shown(uri)}", rate_hz, 1, "skipped", shape)
        self._preparer = Preparer(options, shape)
        self._capture = self._open(uri, options)
        self._start(self._receive)

    def _open(self, uri: str, options: CameraOptions) -> Any:
        cv2, place = opencv(), uri.removeprefix("camera:")
        with _quiet(cv2):
            if place == uri:  # rtsp, http
                wait_ms = round(options.timeout * 1000)
                limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait_ms]
                capture = cv2.VideoCapture(_with_user(uri, options), cv2.CAP_FFMPEG, limits)
            else:
                capture = cv2.VideoCapture(int(place or 0) if place.isdecimal() or not place else place, cv2.CAP_V4L2)
        if not capture.isOpened():
            capture.release()
            raise SourceError(f"{self._name} cannot be opened: is it there, and in use by nobody else?")
        wishes = {"WIDTH": options.width, "HEIGHT": options.height}
        for name, value in {**{f"FRAME_{key}": value for key, value in wishes.items()}, "FPS": options.fps}.items():
            if value is not None:
                capture.set(getattr(cv2, f"CAP_PROP_{name}"), value)
        return capture

    def _receive(self) -> None:
        thinner = Thinner(self.rate_hz)
        try:
            while not self._closed.is_set():
                if not self._capture.grab():
                    raise SourceError(f"{self._name} gives no more pictures: is it still there?")
                if thinner.takes(time.monotonic()):
                    fine, picture = self._capture.retrieve()
                    if fine and picture is not None:
                        self._inbox.put(self._preparer.frame(picture))
                    else:
                        self._inbox.note("malformed", lost=1)
        finally:
            self._capture.release()


def shown(uri: str) -> str:
    """Return a URI without its user and password."""
    return re.sub(r"(?<=//)[^/]*@", "", uri)


def _with_user(uri: str, options: CameraOptions) -> str:
    if options.user is None:
        return uri
    password = f":{quote(options.password.reveal(), safe='')}" if options.password else ""
    return re.sub("//", f"//{quote(options.user, safe='')}{password}@", shown(uri), count=1)


@contextlib.contextmanager
def _quiet(cv2: Any) -> Iterator[None]:
    """Keep OpenCV from printing what we say ourselves."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
