"""Clients of a wake-word server: the protocol's own library, and bare lines through a socket."""

from __future__ import annotations

import contextlib
import json
import socket
import warnings
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports audioop
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.client import AsyncTcpClient
    from wyoming.event import Event
    from wyoming.info import Describe, Info
    from wyoming.wake import Detect, Detection, NotDetected

__all__ = [
    "AsyncTcpClient", "AudioChunk", "AudioStart", "AudioStop", "Describe", "Detect", "Detection", "Event", "Info",
    "NotDetected", "RawClient", "audio", "form",
]  # fmt: skip

RATE = 16000


def form(rate: int = RATE, width: int = 2, channels: int = 1) -> dict[str, Any]:
    return {"rate": rate, "width": width, "channels": channels}


def audio(pcm: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """Cut 16-bit mono into chunks, after so many samples each; the rest comes last."""
    start = 0
    for cut in cuts:
        yield pcm[start : start + 2 * cut]
        start += 2 * cut
    yield pcm[start:]


class RawClient:
    """A connection without the library: lines of JSON, and what stands behind them."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, 10)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # which ends a thread that reads
        self.socket.close()

    def send(self, kind: str, payload: bytes = b"", **data: Any) -> None:
        header = {"type": kind, "data": data, "payload_length": len(payload)}
        self.socket.sendall(json.dumps(header).encode() + b"\n" + payload)

    def receive(self) -> tuple[str, dict[str, Any]] | None:
        """Return type and data of the next event, None at the end."""
        try:
            line = self._file.readline()
        except ConnectionResetError:
            return None
        if not line:
            return None
        header = json.loads(line)
        data = self._file.read(header.get("data_length", 0))
        self._file.read(header.get("payload_length", 0))
        return header["type"], json.loads(data) if data else {}

    def until(self, kind: str) -> list[dict[str, Any]]:
        """Return the data of all events up to the first of a kind."""
        found: list[dict[str, Any]] = []
        while (event := self.receive()) is not None:
            if event[0] == kind:
                return [*found, event[1]]
            found.append(event[1])
        raise AssertionError(f"the connection ended before '{kind}'")
