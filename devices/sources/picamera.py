"""The camera of a Raspberry Pi through picamera2: `picamera2:0`.

Written against the Picamera2 manual (chapters 4 and 6), and tested with a stand-in: not run on hardware.
"""

from __future__ import annotations

import time
from typing import Any

from edgernn.devices.sources.camera import CameraOptions, Thinner
from edgernn.devices.sources.inbox import InboxSource
from edgernn.devices.sources.pictures import Preparer
from edgernn.errors import SourceError, UsageError

__all__ = ["PiCameraSource"]


class PiCameraSource(InboxSource):
    """As `CameraSource`: the newest picture waits for the reader."""

    def __init__(self, number: str, options: CameraOptions, shape: tuple[int, ...], rate_hz: float) -> None:
        super().__init__(f"the camera picamera2:{number}", rate_hz, 1, "skipped", shape)
        self._preparer = Preparer(options, shape)
        if number and not number.isdecimal():
            raise UsageError(f"picamera2 has cameras by number, as in 'picamera2:0', not '{number}'")
        self._camera = self._open(int(number or 0), options)
        self._start(self._receive)

    def _open(self, number: int, options: CameraOptions) -> Any:
        try:
            from picamera2 import Picamera2
        except ImportError as error:
            raise SourceError(
                "picamera2 belongs to Raspberry Pi OS and cannot be imported: sudo apt install python3-picamera2, and "
                "make the environment with --system-site-packages"
            ) from error
        try:
            camera = Picamera2(number)
            size = (options.width or 640, options.height or 480)
            # What it calls RGB888 is blue, green, red in memory, as OpenCV has it.
            settings = camera.create_video_configuration(main={"size": size, "format": "RGB888"})
            camera.configure(settings)
            if options.fps:
                camera.set_controls({"FrameRate": options.fps})
            camera.start()
        except (RuntimeError, IndexError, OSError) as error:
            raise SourceError(f"{self._name} cannot be opened: {error}") from error
        return camera

    def _receive(self) -> None:
        thinner = Thinner(self.rate_hz)
        try:
            while not self._closed.is_set():
                picture = self._camera.capture_array("main")
                if thinner.takes(time.monotonic()):
                    self._inbox.put(self._preparer.frame(picture))
        finally:
            self._camera.stop()
            self._camera.close()
