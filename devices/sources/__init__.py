"""Where samples and frames come from, one file each, imported when it is chosen; `open_source` chooses by URI.

What is recordings to one artifact (`folder:PATH`) is pictures to another one: the shape of its frames decides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs

from edgernn.clips import SUFFIXES
from edgernn.devices.sources.inbox import InboxSource
from edgernn.devices.sources.pieces import Pieces
from edgernn.devices.uri import read_options, split_query
from edgernn.errors import AudioError, SourceError, UsageError
from edgernn.stream import Source

__all__ = ["FRAMES", "SCHEMES", "SOUND", "check_source", "frame_rate", "is_live", "open_source"]

SOUND = {
    "PATH or file:PATH": "a recording: WAV, FLAC and what else libsndfile reads",
    "folder:PATH": "the recordings in a folder, by name (follow: new ones too)",
    "- or stdin:?rate=HZ": "standard input, raw PCM as arecord -f S16_LE -t raw gives it (default rate: the model's)",
    "mic: or mic:NAME": "a microphone by name, part of a name, or number (default: the system's)",
    "rtp://0.0.0.0:PORT?rate=HZ": "RTP with L16 (channels, window, type)",
    "udp://0.0.0.0:PORT?rate=HZ": "raw PCM in datagrams, S16_LE (channels)",
}
"""How each source of sound is written, and what it is."""
FRAMES = {
    "csv:PATH?columns=A,B": "rows of a file (follow: as they are added; start, delimiter)",
    "mqtt://HOST/TOPIC?fields=A,B": "JSON or plain numbers from a broker, or mqtts:// (user, password, ca, …)",
    "serial:/dev/ttyUSB0?baud=115200": "lines of numbers or JSON (fields)",
    "iio:NAME?channels=A,B": "a sensor of Linux' Industrial I/O (root)",
    "camera:0": "a camera, V4L2 (width, height, fps, and how pictures become frames, as for all below:",
    "rtsp://HOST/… or http://HOST/…": "a camera in the network  colors, layout, fit, mean, std, size)",
    "picamera2:0": "a Raspberry Pi's own camera (not run on hardware)",
    "folder:PATH or file:PATH": "pictures by name, or a video",
}
"""Those of frames; each has `rate`, frames a second (default: the artifact's)."""
SCHEMES = {**SOUND, **FRAMES}

Options = TypeVar("Options")
Table = Mapping[str, Any]
TABLES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class _Wanted:
    """What a source is to give, and what is said of it."""

    scheme: str
    rest: str
    rate_hz: float
    shape: tuple[int, ...]
    fast: bool = False
    table: Table = field(default_factory=dict)
    pieces: Pieces | None = None

    @property
    def uri(self) -> str:
        return f"{self.scheme}:{self.rest}"

    @property
    def sound_hz(self) -> int:
        return round(self.rate_hz)

    def split(self, kind: type[Options], example: str = "") -> tuple[str, Options]:
        """Return what is before the options, and them; raise `UsageError` where there must be something."""
        place, query = _split_query(self.rest)
        if not place and example:
            raise UsageError(f"the source {self.scheme}: needs more, as in '{example}'")
        return place, read_options(kind, f"the source {self.scheme}:", query, self.table)


@dataclass(frozen=True)
class _Opener:
    """What opens a source, and what looks whether it is there."""

    open: Callable[[], Source]
    look: Callable[[], object] = lambda: None


def open_source(
    uri: str,
    rate_hz: float,
    fast: bool = False,
    options: Table | None = None,
    shape: tuple[int, ...] = (),
    pieces: Pieces | None = None,
) -> Source:
    """Open a source that delivers samples at `rate_hz`, whatever the rate it gets; or frames of a `shape`.

    A recording comes at the pace of real time, or with `fast` as quickly as it is taken. `options` are what else stood
    in its table, such as a `Secret`; `pieces` are how much of what is live comes at once, by default what is there.
    Raises `UsageError` for an unknown scheme or option, or a source of something else, `SourceError` for one that
    cannot be opened.
    """
    source = _opener(uri, rate_hz, fast, options, shape, pieces).open()
    if pieces is not None and isinstance(source, InboxSource):
        source.gather(pieces)
    return source


def check_source(uri: str, rate_hz: float, options: Table | None = None, shape: tuple[int, ...] | None = ()) -> None:
    """Check all that can be checked without opening the source, and whether it is there; raise what is wrong.

    With None as `shape`, it is not known what the artifact takes: only the scheme is checked.
    """
    if shape is None:
        _parse(uri)
        frame_rate(uri, options)
    else:
        _opener(uri, rate_hz, False, options, shape).look()


def is_live(uri: str) -> bool:
    """Tell whether a source may give nothing for ever, other than a recording, which ends by itself.

    >>> is_live("mic:"), is_live("csv:a.csv"), is_live("csv:a.csv?columns=x&follow")
    (True, False, True)
    """
    scheme, rest = _parse(uri)
    follows = parse_qs(_split_query(rest)[1]).get("follow", ["false"])[-1] != "false"
    return follows or scheme not in ("file", "folder", "csv")


def frame_rate(uri: str, options: Table | None = None) -> float | None:
    """Return the rate that is said of a source of frames; raise `UsageError` if it is none."""
    given = {**parse_qs(_split_query(uri)[1]), **(options or {})}.get("rate")
    if given is None:
        return None
    text = given[-1] if isinstance(given, list) else given
    try:
        rate_hz = float(text)
    except (TypeError, ValueError):
        rate_hz = 0.0
    if isinstance(text, bool) or not 0 < rate_hz < math.inf:
        raise UsageError(f"the rate of a source must be a number above 0, not '{text}'")
    return rate_hz


def _opener(
    uri: str, rate_hz: float, fast: bool, options: Table | None, shape: tuple[int, ...], pieces: Pieces | None = None
) -> _Opener:
    scheme, rest = _parse(uri)
    kinds = OF_FRAMES if shape else OF_SOUND
    if scheme not in kinds or (shape and scheme == "file" and Path(rest).suffix.lower() in SUFFIXES):
        gives, takes = ("sound", f"frames of shape {shape}") if shape else ("frames", "sound")
        raise UsageError(f"the source {scheme}: gives {gives}, and the artifact takes {takes}")
    return kinds[scheme](_Wanted(scheme, rest, rate_hz, shape, fast, options or {}, pieces))


def _parse(uri: str) -> tuple[str, str]:
    """Return the scheme, one of those there are, and the rest."""
    scheme, rest = _split("stdin:" if uri == "-" else uri)
    if scheme not in OF_SOUND and scheme not in OF_FRAMES:
        raise UsageError(f"there is no source '{scheme}:'; the sources are: {', '.join(SCHEMES)}")
    return scheme, re.sub("^//(localhost)?(?=/)", "", rest) if scheme in ("file", "folder", "csv", "serial") else rest


def _split(uri: str) -> tuple[str, str]:
    """Return scheme and rest; whatever has no scheme, or is there, is a file."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", uri, re.DOTALL)  # one letter is a drive of Windows
    if not found or Path(uri).is_file():
        return ("folder" if Path(uri).is_dir() else "file"), uri
    return found[1].lower(), found[2]


def _split_query(rest: str) -> tuple[str, str]:
    """Take the options off; a flag may stand alone.

    >>> _split_query("readings.csv?follow&rate=5")
    ('readings.csv', 'follow=true&rate=5')
    """
    return split_query(re.sub(r"([?&])follow(?=&|$)", r"\1follow=true", rest))


@dataclass(frozen=True)
class _NoOptions:
    """For sources that have none."""


def _recording(wanted: _Wanted) -> _Opener:
    from edgernn.devices.sources.file import FileSource

    read_options(_NoOptions, f"the source {wanted.uri}", "", wanted.table)

    def look() -> None:
        if not Path(wanted.rest).is_file():
            raise AudioError(f"the recording {wanted.rest} is not there, or is no file")

    return _Opener(lambda: FileSource(wanted.rest, wanted.sound_hz, wanted.fast), look)


def _recordings(wanted: _Wanted) -> _Opener:
    from edgernn.devices.sources.folder import FolderOptions, FolderSource

    path, options = wanted.split(FolderOptions, "folder:PATH")
    return _Opener(lambda: FolderSource(path, options, wanted.sound_hz, wanted.fast), lambda: _look_for_folder(path))


def _stdin(wanted: _Wanted) -> _Opener:
    from edgernn.devices.sources.stdin import StdinSource

    read_options(_NoOptions, "standard input", "", wanted.table)
    rate = _stdin_rate(wanted.rest, wanted.sound_hz)
    return _Opener(lambda: StdinSource(wanted.sound_hz, rate, pieces=wanted.pieces))


def _stdin_rate(rest: str, rate_hz: int) -> int:
    options = parse_qs(rest.removeprefix("?"), keep_blank_values=True)
    text = options.pop("rate", [str(rate_hz)])[-1]
    if options or (rest and not rest.startswith("?")):
        raise UsageError(f"standard input has only the option rate, as in 'stdin:?rate=16000'; found '{rest}'")
    if not text.isdecimal() or int(text) == 0:
        raise UsageError(f"the sample rate of standard input must be a whole number above zero, not '{text}'")
    return int(text)


def _microphone(wanted: _Wanted) -> _Opener:
    from edgernn.devices.sources.microphone import MicrophoneSource, find_microphone

    read_options(_NoOptions, f"the source {wanted.uri}", "", wanted.table)
    return _Opener(
        lambda: MicrophoneSource(wanted.rest, wanted.sound_hz, wanted.pieces), lambda: find_microphone(wanted.rest)
    )


def _rtp(wanted: _Wanted) -> _Opener:
    from edgernn.devices.sources.rtp import RtpOptions, RtpSource
    from edgernn.devices.sources.udp import Address

    place, options = wanted.split(RtpOptions)
    address = Address.of(f"rtp:{place}")
    return _Opener(lambda: RtpSource(address, options, wanted.sound_hz))


def _udp(wanted: _Wanted) -> _Opener:
    from edgernn.devices.sources.udp import Address, UdpOptions, UdpSource

    place, options = wanted.split(UdpOptions)
    address = Address.of(f"udp:{place}")
    return _Opener(lambda: UdpSource(address, options, wanted.sound_hz))


def _mqtt(wanted: _Wanted) -> _Opener:
    from edgernn.devices.sources.mqtt import MqttSource, MqttSourceOptions, source_broker
    from edgernn.devices.sources.values import ValueReader

    place, _, query = wanted.rest.partition("?")
    options = read_options(MqttSourceOptions, f"the source {wanted.scheme}:", query, wanted.table)
    broker = source_broker(f"{wanted.scheme}:{place}", options)
    reader = ValueReader("the source mqtt:", options.fields, wanted.shape)
    return _Opener(lambda: MqttSource(broker, reader, wanted.rate_hz))


def _serial(wanted: _Wanted) -> _Opener:
    from edgernn.devices.sources.serial_line import SerialOptions, SerialSource
    from edgernn.devices.sources.values import ValueReader

    path, options = wanted.split(SerialOptions, "serial:/dev/ttyUSB0")
    reader = ValueReader("the source serial:", options.fields, wanted.shape)

    def look() -> None:
        if not Path(path).exists():
            raise SourceError(f"the serial line {path} is not there")

    return _Opener(lambda: SerialSource(path, options, reader, wanted.rate_hz), look)


def _csv(wanted: _Wanted) -> _Opener:
    from edgernn.devices.sources.csv_file import CsvOptions, CsvSource

    path, options = wanted.split(CsvOptions, "csv:PATH")

    def open_() -> Source:
        return CsvSource(path, options, wanted.shape, wanted.rate_hz, wanted.fast)

    return _Opener(open_, lambda: open_().close())


def _iio(wanted: _Wanted) -> _Opener:
    from edgernn.devices.sources.iio import IioOptions, IioSource, find_device, open_channels

    name, options = wanted.split(IioOptions, "iio:NAME")

    def look() -> None:
        open_channels(find_device(name, options.root), options.channels, wanted.shape)

    return _Opener(lambda: IioSource(name, options, wanted.shape, wanted.rate_hz), look)


def _camera(wanted: _Wanted) -> _Opener:
    from edgernn.devices.sources.camera import CameraOptions, CameraSource
    from edgernn.devices.sources.pictures import Preparer

    if wanted.scheme == "camera":
        place, options = wanted.split(CameraOptions)
    else:  # the rest is the camera's own, its query too
        place, options = wanted.rest, read_options(CameraOptions, f"the camera {wanted.scheme}:", "", wanted.table)
    uri = f"{wanted.scheme}:{place}"
    return _Opener(
        lambda: CameraSource(uri, options, wanted.shape, wanted.rate_hz), lambda: Preparer(options, wanted.shape)
    )


def _picamera2(wanted: _Wanted) -> _Opener:
    from edgernn.devices.sources.camera import CameraOptions
    from edgernn.devices.sources.picamera import PiCameraSource

    number, options = wanted.split(CameraOptions)
    return _Opener(lambda: PiCameraSource(number, options, wanted.shape, wanted.rate_hz))


def _recorded_frames(wanted: _Wanted) -> _Opener:
    """Return a table or a video, by the name of the file."""
    if Path(_split_query(wanted.rest)[0]).suffix.lower() in TABLES:
        return _csv(wanted)
    from edgernn.devices.sources.video import VideoOptions, VideoSource

    path, options = wanted.split(VideoOptions, "file:PATH")

    def open_() -> Source:
        return VideoSource(path, options, wanted.shape, wanted.rate_hz, wanted.fast)

    return _Opener(open_, lambda: open_().close())


def _pictures(wanted: _Wanted) -> _Opener:
    from edgernn.devices.sources.video import ImagesSource, VideoOptions

    path, options = wanted.split(VideoOptions, "folder:PATH")
    return _Opener(
        lambda: ImagesSource(path, options, wanted.shape, wanted.rate_hz, wanted.fast), lambda: _look_for_folder(path)
    )


def _look_for_folder(path: str) -> None:
    if not Path(path).is_dir():
        raise SourceError(f"the folder {path} is not there, or is no folder")


Make = Callable[[_Wanted], _Opener]
OF_SOUND: Mapping[str, Make] = {
    "file": _recording,
    "folder": _recordings,
    "stdin": _stdin,
    "mic": _microphone,
    "rtp": _rtp,
    "udp": _udp,
}
OF_FRAMES: Mapping[str, Make] = {
    "file": _recorded_frames,
    "folder": _pictures,
    "csv": _csv,
    "mqtt": _mqtt,
    "mqtts": _mqtt,
    "serial": _serial,
    "iio": _iio,
    "camera": _camera,
    "rtsp": _camera,
    "http": _camera,
    "https": _camera,
    "picamera2": _picamera2,
}
