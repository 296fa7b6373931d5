"""What stands in for devices that are not here: PortAudio's microphones, V4L2 and picamera2 cameras, a tree of IIO."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from tests.devices.senders import picture

__all__ = ["FakeStream", "IioDevice", "PortAudioError", "V4l2", "picamera2_of", "sounddevice_of"]


class PortAudioError(Exception):
    pass


class FakeStream:
    """Calls back from a thread of its own, as PortAudio does, with blocks that count up."""

    def __init__(self, hub: SimpleNamespace, callback: Any, blocksize: int, samplerate: int, **_: Any) -> None:
        self.active, self._hub, self._callback = True, hub, callback
        self._size, self._rate = blocksize, samplerate
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.closed = False
        hub.streams.append(self)

    def start(self) -> None:
        self._thread.start()

    def _work(self) -> None:
        clock = 1.0
        for number in range(self._hub.blocks):
            skipped = self._hub.overflows.get(number, 0)
            clock += skipped / self._rate
            block = np.full((self._size, 1), number / 1000, np.float32)
            times = SimpleNamespace(inputBufferAdcTime=clock)
            self._callback(block, self._size, times, SimpleNamespace(input_overflow=skipped > 0))
            block[...] = np.nan  # PortAudio uses its memory again
            clock += self._size / self._rate
        self.active = not self._hub.unplugs_at_end

    def abort(self) -> None:
        self.active = False

    def close(self) -> None:
        self.closed = True


def sounddevice_of() -> SimpleNamespace:
    """Return what stands in for the module, with a microphone called USB."""
    hub = SimpleNamespace(
        blocks=20, overflows={}, unplugged=False, unplugs_at_end=False, rates={16000, 48000}, streams=[],
        PortAudioError=PortAudioError, begun=[],
    )  # fmt: skip
    hub._terminate, hub._initialize = lambda: hub.begun.append("end"), lambda: hub.begun.append("begin")
    devices = [
        {"name": "HDMI", "max_input_channels": 0, "default_samplerate": 44100.0},
        {"name": "USB mic", "max_input_channels": 1, "default_samplerate": 48000.0},
    ]

    def query_devices(device: Any = None, kind: str | None = None) -> Any:
        if kind is None:
            return devices
        if device in (None, 1, "USB"):
            if hub.unplugged:
                raise ValueError(f"No input device matching {device!r}")
            return devices[1]
        raise ValueError(f"No input device matching {device!r}")

    def check_input_settings(device: Any, channels: int, dtype: str, samplerate: int) -> None:
        if samplerate not in hub.rates:
            raise PortAudioError("Invalid sample rate")

    hub.query_devices, hub.check_input_settings = query_devices, check_input_settings
    hub.InputStream = lambda **options: FakeStream(hub, **options)
    return hub


class V4l2:
    """A camera of 200 pictures a second, number 0, that one program may open, and that is unplugged, or hangs."""

    def __init__(self) -> None:
        self.there, self.runs = True, threading.Event()
        self.runs.set()
        self.asked: dict[int, float] = {}
        self._busy = threading.Lock()

    def capture(self, place: Any, backend: int) -> Any:
        """Stand in for `cv2.VideoCapture`."""
        assert backend == cv2.CAP_V4L2
        opened = self.there and place == 0 and self._busy.acquire(blocking=False)
        return _Capture(self, opened)

    def unplug(self) -> None:
        self.there = False

    def plug(self) -> None:
        self.there = True


class _Capture:
    def __init__(self, camera: V4l2, opened: bool) -> None:
        self._camera, self._opened = camera, opened
        self.set = camera.asked.__setitem__

    def isOpened(self) -> bool:
        return self._opened

    def grab(self) -> bool:
        time.sleep(0.005)
        self._camera.runs.wait(10)  # OpenCV's own limit for V4L2
        return self._camera.there and self._camera.runs.is_set()

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, picture(100)

    def release(self) -> None:
        if self._opened:
            self._camera._busy.release()
        self._opened = False


def picamera2_of(calls: list[Any]) -> SimpleNamespace:
    """Return what stands in for the module; what is asked of a camera goes to `calls`."""

    class Picamera2:
        def __init__(self, number: int) -> None:
            calls.append(number)

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **settings: calls.append((name, *args, *settings.items()))

        def capture_array(self, name: str) -> np.ndarray:
            time.sleep(0.01)
            return picture(100)

    return SimpleNamespace(Picamera2=Picamera2)


class IioDevice:
    """Files as the kernel shows a sensor; `read` alone is not like the kernel's, whose values change."""

    def __init__(self, root: Path) -> None:
        self.folder, self._aside = root / "iio:device1", root / "aside"
        self.folder.mkdir(parents=True)
        files = {
            "name": "bmi160",
            "in_accel_scale": "0.5",
            "in_accel_x_raw": "10",
            "in_accel_y_raw": "-4",
            "in_temp_raw": "100",
            "in_temp_scale": "2",
            "in_temp_offset": "-40",
            "in_pressure_input": "101.3",
            "in_accel_y_offset": "2",
            "in_voltage3_raw": "7",
            "in_voltage_scale": "0.1",
        }
        for name, text in files.items():
            (self.folder / name).write_text(f"{text}\n")

    def unplug(self) -> None:
        self.folder.rename(self._aside)

    def plug(self) -> None:
        self._aside.rename(self.folder)
