"""A sensor of Linux' Industrial I/O: `iio:bmi160?channels=accel_x,accel_y,accel_z&rate=50`.

Each channel is read in sysfs: `in_CHANNEL_input` is in its unit already, `in_CHANNEL_raw` becomes
(raw + offset) × scale, of its own or of all of its kind (`in_accel_scale`). That does for some hundred a second.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgernn.devices.sources.inbox import InboxSource
from edgernn.devices.sources.values import as_frame
from edgernn.errors import SourceError, UsageError

__all__ = ["Channel", "IioOptions", "IioSource", "channels_of", "find_device", "open_channels"]

ROOT = "/sys/bus/iio/devices"
QUEUE_S = 5.0
TRANSIENT = (errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ETIMEDOUT, errno.EINTR)


@dataclass(frozen=True)
class IioOptions:
    """Options of the source."""

    channels: tuple[str, ...] = ()
    """Such as accel_x; by default all there are, by name."""
    rate: float | None = None
    """Readings a second; by default the model's."""
    root: str = ROOT
    """Where the devices are."""


def find_device(name: str, root: str = ROOT) -> Path:
    """Return the folder of the device with a name, a label or a number; raise `SourceError` if there is none."""
    devices = sorted(Path(root).glob("iio:device*"))
    for device in devices:
        if device.name in (name, f"iio:device{name}") or name in (_text(device / "name"), _text(device / "label")):
            return device
    there = ", ".join(f"{device.name} ({_text(device / 'name') or 'without a name'})" for device in devices)
    raise SourceError(f"there is no sensor '{name}' in {root}; there are: {there or 'none'}")


class Channel:
    """One value of a device."""

    def __init__(self, device: Path, name: str) -> None:
        self.name = name
        self._raw = device / f"in_{name}_raw"
        self._scale, self._offset = 1.0, 0.0
        if (ready := device / f"in_{name}_input").is_file():
            self._raw = ready
        elif self._raw.is_file():
            self._scale = _constant(device, name, "scale", 1.0)
            self._offset = _constant(device, name, "offset", 0.0)
        else:
            raise SourceError(f"{device} has no channel '{name}'; it has: {', '.join(channels_of(device)) or 'none'}")

    def read(self) -> float:
        """Return its value now, in its unit; raise `OSError`, or `ValueError` if it is no number."""
        return (float(self._raw.read_text()) + self._offset) * self._scale


def channels_of(device: Path) -> list[str]:
    """Return the names of the channels."""
    found = (re.fullmatch(r"in_(.+)_(?:raw|input)", file.name) for file in device.iterdir())
    return sorted({one[1] for one in found if one})


def _constant(device: Path, name: str, what: str, default: float) -> float:
    """Return a channel's scale or offset: its own, or that of its kind (of accel_x: accel; of voltage3: voltage)."""
    kinds = [name, name.rpartition("_")[0], re.sub(r"\d+(-.*)?$", "", name)]
    for kind in kinds:
        path = device / f"in_{kind}_{what}"
        if kind and path.is_file():
            try:
                return float(path.read_text())
            except (OSError, ValueError) as error:
                raise SourceError(f"{path} cannot be read: {error}") from error
    return default


class IioSource(InboxSource):
    """Reads at its rate, in a thread. Readings that were due and not made are counted, and those that failed."""

    def __init__(self, name: str, options: IioOptions, shape: tuple[int, ...], rate_hz: float) -> None:
        super().__init__(f"the sensor {name}", rate_hz, max(8, round(QUEUE_S * rate_hz)), shape=shape)
        self._device, self._shape = find_device(name, options.root), shape
        self._channels = open_channels(self._device, options.channels, shape)
        self._start(self._receive)

    def _receive(self) -> None:
        period, due = 1 / self.rate_hz, time.monotonic()
        while not self._closed.wait(max(0.0, due - time.monotonic())):
            self._read()
            missed = max(0, int((time.monotonic() - due) / period))
            if missed:
                self._inbox.note("missed", missed, missed)
            due += period * (missed + 1)

    def _read(self) -> None:
        try:
            self._inbox.put(as_frame([channel.read() for channel in self._channels], self._shape))
        except ValueError as error:
            self._inbox.note("malformed", lost=1, why=error)
        except OSError as error:
            if error.errno not in TRANSIENT:
                raise SourceError(f"{self._name} is gone: {error.strerror}: {error.filename}") from error
            self._inbox.note("unreadable", lost=1)


def open_channels(device: Path, names: Sequence[str], shape: tuple[int, ...]) -> list[Channel]:
    """Return the channels, as many as the model takes; raise `SourceError` or `UsageError` if they are not."""
    names, size = names or channels_of(device), 1
    for length in shape:
        size *= length
    if len(names) != size:
        raise UsageError(f"the model takes {size} values a frame, and {device.name} is to give {len(names)}: {names}")
    return [Channel(device, name) for name in names]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
