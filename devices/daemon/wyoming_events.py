"""The Wyoming protocol's events on a socket: a line of JSON, then data and payload, as long as the line says.

This is the server's own, and not the library `wyoming`: that one sets no limit to a length, and cannot tell what is
malformed from the end of a connection.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgernn.errors import FailureError

__all__ = ["MOST_LINE", "MOST_PAYLOAD", "ClientError", "EventReader", "WyomingEvent", "encode"]

MOST_LINE = 65536  # also of the data behind it
MOST_PAYLOAD = 2**20
EVENT_S = 10.0  # how long the rest of an event may take once it has begun
VERSION = "1.10.2"  # of the protocol's reference, which the events follow


@dataclass(frozen=True)
class WyomingEvent:
    """One event."""

    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""


class ClientError(FailureError):
    """A client whose connection is to be closed, and by what `cause` that is counted."""

    def __init__(self, cause: str, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause


def encode(event: WyomingEvent) -> bytes:
    """Return an event as it goes over the wire.

    >>> encode(WyomingEvent("pong", {"text": "hi"}))
    b'{"type": "pong", "version": "1.10.2", "data_length": 14}\\n{"text": "hi"}'
    """
    data = json.dumps(event.data, ensure_ascii=False).encode() if event.data else b""
    header: dict[str, Any] = {"type": event.type, "version": VERSION}
    header |= {"data_length": len(data)} if data else {}
    header |= {"payload_length": len(event.payload)} if event.payload else {}
    return json.dumps(header).encode() + b"\n" + data + event.payload


class EventReader:
    """Reads events from a socket; raises `ClientError` for what is malformed, and for a client that went silent."""

    def __init__(self, connection: socket.socket, idle_s: float) -> None:
        self.idle_s = idle_s
        """How long the next event may be in coming."""
        self._connection = connection
        self._bytes = bytearray()
        self._deadline = 0.0

    def read(self) -> WyomingEvent | None:
        """Return the next event, or None where the connection ended before it."""
        self._deadline = time.monotonic() + self.idle_s
        if not self._bytes and not self._receive("idle"):
            return None
        self._deadline = time.monotonic() + EVENT_S
        header = _object(self._line(), "the header")
        kind = header.get("type")
        if not isinstance(kind, str):
            raise ClientError("malformed", "an event without a type")
        data = header.get("data") or {}
        if not isinstance(data, dict):
            raise ClientError("malformed", "the data of an event is no object")
        more = self._exactly(_length(header, "data_length", MOST_LINE))
        payload = self._exactly(_length(header, "payload_length", MOST_PAYLOAD))
        return WyomingEvent(kind, {**data, **_object(more, "the data")} if more else data, payload)

    def _line(self) -> bytes:
        searched = 0
        while (end := self._bytes.find(b"\n", searched)) < 0:
            searched = len(self._bytes)
            if searched > MOST_LINE:
                break
            self._more()
        if not 0 <= end <= MOST_LINE:
            raise ClientError("malformed", f"a header of more than {MOST_LINE} bytes")
        line = self._exactly(end)
        del self._bytes[:1]
        return line

    def _exactly(self, count: int) -> bytes:
        while len(self._bytes) < count:
            self._more()
        taken = bytes(self._bytes[:count])
        del self._bytes[:count]
        return taken

    def _more(self) -> None:
        if not self._receive("stalled"):
            raise ClientError("malformed", "the connection ended within an event")

    def _receive(self, silent: str) -> bool:
        """Take what there is; return False where the connection has ended."""
        try:
            self._connection.settimeout(max(0.001, self._deadline - time.monotonic()))
            received = self._connection.recv(65536)
        except TimeoutError:
            waited = self.idle_s if silent == "idle" else EVENT_S
            raise ClientError(silent, f"nothing came for {waited:g} s") from None
        except OSError as error:
            raise ClientError("gone", error.strerror or "the connection broke") from error
        self._bytes += received
        return bool(received)


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ClientError("malformed", f"{what} of an event is no JSON object: {text[:40]!r}")
    return values


def _length(header: Mapping[str, Any], name: str, most: int) -> int:
    length = header.get(name)
    if length is None:
        return 0
    if type(length) is not int or not 0 <= length <= most:
        raise ClientError("malformed", f"{name} must be a whole number of at most {most}, found {str(length)[:40]}")
    return length
