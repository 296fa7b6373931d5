"""Where events go, one file each; `open_sink` chooses by URI."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgernn.devices.sinks.lines import JsonSink, TextSink
from edgernn.errors import UsageError
from edgernn.stream import Sink

__all__ = ["SCHEMES", "check_sink", "open_sink"]

SCHEMES = {
    "- or text:": "lines for people on standard output",
    "json:": "JSON lines on standard output",
    "json:PATH": "JSON lines, added to a file",
}


def open_sink(uri: str, options: Mapping[str, Any] | None = None) -> Sink:
    """Open a sink; `options` are what else stood in its table, such as a `Secret`.

    Raises `UsageError` for an unknown scheme or option, or a file that cannot be written.
    """
    check_sink(uri, options)
    if uri in ("-", "text:", "text"):
        return TextSink()
    return JsonSink(uri.removeprefix("json").removeprefix(":"))


def check_sink(uri: str, options: Mapping[str, Any] | None = None) -> None:
    """Check all that can be checked without opening the sink; raise `UsageError` for what is wrong."""
    if uri not in ("-", "text:", "text", "json") and not uri.startswith("json:"):
        raise UsageError(f"there is no sink '{uri}'; the sinks are: {', '.join(SCHEMES)}")
    for name in options or ():
        raise UsageError(f"the sink {uri} has no option {name}")
    path = uri.removeprefix("json:")
    if not Path(path).parent.is_dir():
        raise UsageError(f"the file {path} for events cannot be written: {os.strerror(errno.ENOENT)}")
