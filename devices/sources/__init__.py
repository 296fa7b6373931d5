"""Where samples come from, one file each; `open_source` chooses by URI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from edgernn.devices.sources.file import FileSource
from edgernn.devices.sources.microphone import MicrophoneSource, find_microphone
from edgernn.devices.sources.stdin import StdinSource
from edgernn.errors import AudioError, UsageError
from edgernn.stream import Source

__all__ = ["SCHEMES", "check_source", "open_source"]

SCHEMES = {
    "PATH or file:PATH": "a recording: WAV, FLAC and what else libsndfile reads",
    "- or stdin:?rate=HZ": "standard input, raw PCM as arecord -f S16_LE -t raw gives it (default rate: the model's)",
    "mic: or mic:NAME": "a microphone by name, part of a name, or number (default: the system's)",
}


def open_source(uri: str, rate_hz: int, fast: bool = False, options: Mapping[str, Any] | None = None) -> Source:
    """Open a source that delivers at `rate_hz`, whatever the rate it gets.

    A recording comes at the pace of real time, or with `fast` as quickly as it is taken. `options` are what else stood
    in its table, such as a `Secret`. Raises `UsageError` for an unknown scheme or option, `AudioError` for a recording
    or a microphone that cannot be opened.
    """
    scheme, rest = _parse(uri, options)
    if scheme == "file":
        return FileSource(rest, rate_hz, fast)
    if scheme == "stdin":
        return StdinSource(rate_hz, _stdin_rate(rest, rate_hz))
    return MicrophoneSource(rest, rate_hz)


def check_source(uri: str, rate_hz: int, options: Mapping[str, Any] | None = None) -> None:
    """Check all that can be checked without opening the source, and whether it is there; raise what is wrong."""
    scheme, rest = _parse(uri, options)
    if scheme == "stdin":
        _stdin_rate(rest, rate_hz)
    elif scheme == "mic":
        find_microphone(rest)
    elif not Path(rest).is_file():
        raise AudioError(f"the recording {rest} is not there, or is no file")


def _parse(uri: str, options: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the scheme, one of those there are, and the rest."""
    scheme, rest = _split("stdin:" if uri == "-" else uri)
    if scheme not in ("file", "stdin", "mic"):
        raise UsageError(f"there is no source '{scheme}:'; the sources are: {', '.join(SCHEMES)}")
    for name in options or ():
        raise UsageError(f"the source {uri} has no option {name}")
    return scheme, re.sub("^//(localhost)?(?=/)", "", rest) if scheme == "file" else rest


def _split(uri: str) -> tuple[str, str]:
    """Return scheme and rest; whatever has no scheme, or is there, is a file."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", uri, re.DOTALL)  # one letter is a drive of Windows
    if not found or Path(uri).is_file():
        return "file", uri
    return found[1].lower(), found[2]


def _stdin_rate(rest: str, rate_hz: int) -> int:
    options = parse_qs(rest.removeprefix("?"), keep_blank_values=True)
    text = options.pop("rate", [str(rate_hz)])[-1]
    if options or (rest and not rest.startswith("?")):
        raise UsageError(f"standard input has only the option rate, as in 'stdin:?rate=16000'; found '{rest}'")
    if not text.isdecimal() or int(text) == 0:
        raise UsageError(f"the sample rate of standard input must be a whole number above zero, not '{text}'")
    return int(text)
