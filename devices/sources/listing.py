"""Devices that a source can open here, each as its URI is written: microphones, cameras, serial lines, sensors."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from edgernn.devices.sources.iio import ROOT, channels_of
from edgernn.devices.sources.microphone import list_microphones

__all__ = ["list_devices", "list_sensors"]

SERIAL = ("ttyUSB*", "ttyACM*", "ttyAMA*")


def list_devices() -> list[tuple[str, str]]:
    """Return URI and description of each; raises what `list_microphones` does."""
    microphones = [
        (f"mic:{number}", f"{name} ({channels} channel{'s' if channels > 1 else ''}, {rate_hz} Hz)")
        for number, name, channels, rate_hz in list_microphones()
    ]
    return [*microphones, *list_sensors()]


def list_sensors(root: Path = Path("/")) -> list[tuple[str, str]]:
    """Return those that are no microphones, of the system whose files are at `root`."""
    return [*_cameras(root), *_pi_cameras(), *_serial_lines(root), *_iio(root)]


def _cameras(root: Path) -> Iterator[tuple[str, str]]:
    for folder in sorted((root / "sys/class/video4linux").glob("video*"), key=lambda path: (len(path.name), path.name)):
        if (root / "dev" / folder.name).exists() and _text(folder / "index") in ("", "0"):  # others have no pictures
            yield f"camera:{folder.name.removeprefix('video')}", _text(folder / "name")


def _pi_cameras() -> Iterator[tuple[str, str]]:
    if find_spec("picamera2") is None:
        return
    from picamera2 import Picamera2

    for camera in Picamera2.global_camera_info():
        yield f"picamera2:{camera['Num']}", str(camera["Model"])


def _serial_lines(root: Path) -> Iterator[tuple[str, str]]:
    names: dict[Path, str] = {}
    for link in (root / "dev/serial/by-id").glob("*"):
        names[link.resolve()] = f"/dev/serial/by-id/{link.name}"
    for pattern in SERIAL:
        for device in sorted((root / "dev").glob(pattern)):
            stable = names.get(device.resolve())
            yield f"serial:/dev/{device.name}", f"also {stable}, which stays the same" if stable else ""


def _iio(root: Path) -> Iterator[tuple[str, str]]:
    for device in sorted((root / ROOT.lstrip("/")).glob("iio:device*")):
        name = _text(device / "name") or device.name.removeprefix("iio:device")
        yield f"iio:{name}", f"channels {', '.join(channels_of(device)) or 'none'}"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
