"""Where events go, one file each; `open_sink` chooses by URI."""

from __future__ import annotations

from edgernn.devices.sinks.lines import JsonSink, TextSink
from edgernn.errors import UsageError
from edgernn.stream import Sink

__all__ = ["SCHEMES", "open_sink"]

SCHEMES = {
    "- or text:": "lines for people on standard output",
    "json:": "JSON lines on standard output",
    "json:PATH": "JSON lines, added to a file",
}


def open_sink(uri: str) -> Sink:
    """Open a sink; raises `UsageError` for an unknown scheme, or a file that cannot be written."""
    if uri in ("-", "text:", "text"):
        return TextSink()
    if uri == "json" or uri.startswith("json:"):
        return JsonSink(uri[len("json:") :])
    raise UsageError(f"there is no sink '{uri}'; the sinks are: {', '.join(SCHEMES)}")
