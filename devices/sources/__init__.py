"""Where samples come from, one file each; `open_source` chooses by URI."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs

from edgernn.devices.sources.file import FileSource
from edgernn.devices.sources.microphone import MicrophoneSource
from edgernn.devices.sources.stdin import StdinSource
from edgernn.errors import UsageError
from edgernn.stream import Source

__all__ = ["SCHEMES", "open_source"]

SCHEMES = {
    "PATH or file:PATH": "a recording: WAV, FLAC and what else libsndfile reads",
    "- or stdin:?rate=HZ": "standard input, raw PCM as arecord -f S16_LE -t raw gives it (default rate: the model's)",
    "mic: or mic:NAME": "a microphone by name, part of a name, or number (default: the system's)",
}


def open_source(uri: str, rate_hz: int, fast: bool = False) -> Source:
    """Open a source that delivers at `rate_hz`, whatever the rate it gets.

    A recording comes at the pace of real time, or with `fast` as quickly as it is taken. Raises `UsageError` for an
    unknown scheme, `AudioError` for a recording or a microphone that cannot be opened.
    """
    if uri == "-":
        uri = "stdin:"
    scheme, rest = _split(uri)
    if scheme == "file":
        return FileSource(re.sub("^//(localhost)?(?=/)", "", rest), rate_hz, fast)
    if scheme == "stdin":
        return StdinSource(rate_hz, _stdin_rate(rest, rate_hz))
    if scheme == "mic":
        return MicrophoneSource(rest, rate_hz)
    raise UsageError(f"there is no source '{scheme}:'; the sources are: {', '.join(SCHEMES)}")


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
