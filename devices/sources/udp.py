"""Raw PCM in UDP datagrams: `udp://0.0.0.0:5004?rate=16000`, mono samples of 16 bits, little-endian.

Datagrams have no numbers: what the network loses cannot be counted. RTP has (`rtp.py`). What the kernel drops, since it
comes faster than it is taken, the kernel counts.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import time
from collections.abc import Hashable
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from edgernn.devices.sources.inbox import InboxSource
from edgernn.devices.sources.resample import Resampler
from edgernn.errors import AudioError, UsageError

__all__ = ["Address", "UdpOptions", "UdpSource"]

QUEUE_S = 5.0  # how far the reader may fall behind before sound is dropped
LOOK_S = 0.05
FRESH_S = 1.0  # without a datagram from its sender for so long, another one may take its place
MOST_BYTES = 65536
KERNEL_BYTES = 1 << 20
SO_RXQ_OVFL = 40  # <asm-generic/socket.h>: with each datagram comes how many were dropped


@dataclass(frozen=True)
class UdpOptions:
    """Options of the source."""

    rate: int | None = None
    """Samples per second of what is sent; by default the model's."""
    channels: int = 1
    """Interleaved; they are averaged."""


@dataclass(frozen=True)
class Address:
    """Where to listen: `HOST:PORT`; a multicast group is joined."""

    host: str
    port: int

    @classmethod
    def of(cls, uri: str) -> Address:
        """Read a URI without its query; raise `UsageError` if it names no port."""
        parts = urlsplit(uri)
        try:
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{uri} has no port that could be: {error}") from error
        if port is None or not parts.hostname or parts.path.strip("/"):
            raise UsageError(f"{parts.scheme} needs an address to listen at, as in {parts.scheme}://0.0.0.0:5004")
        return cls(parts.hostname, port)

    def bind(self) -> socket.socket:
        """Return a socket that listens there; raise `AudioError` if it cannot."""
        try:
            family, kind, _, _, place = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)[0]
            listening = socket.socket(family, kind)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
                with contextlib.suppress(OSError):  # of Linux alone
                    listening.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
                self._join(listening, str(place[0]))
                listening.bind(place)
            except OSError:
                listening.close()
                raise
        except OSError as error:
            raise AudioError(f"nobody can listen at {self}: {error.strerror or error}") from error
        listening.settimeout(LOOK_S)
        return listening

    def _join(self, listening: socket.socket, host: str) -> None:
        address = ipaddress.ip_address(host.partition("%")[0])
        if not address.is_multicast:
            return
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 4:
            listening.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, address.packed + bytes(4))
        else:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, address.packed + struct.pack("@I", 0))

    def __str__(self) -> str:
        """Return host and port."""
        return f"{self.host}:{self.port}"


class UdpSource(InboxSource):
    """Hears one sender at a time; datagrams of others, and those that are none, are counted."""

    def __init__(self, address: Address, options: UdpOptions, rate_hz: int) -> None:
        super().__init__(f"udp://{address}", rate_hz, round(QUEUE_S * rate_hz))
        self._input_hz = options.rate or rate_hz
        self._channels = options.channels
        self._resampler = Resampler(self._input_hz, rate_hz)
        self._socket = address.bind()
        self.port: int = self._socket.getsockname()[1]
        """Where it listens, also if the system chose."""
        self._sender: Hashable = None
        self._heard_s = 0.0
        self._start(self._receive)

    def _receive(self) -> None:
        dropped = 0
        with self._socket:
            while not self._closed.is_set():
                try:
                    data, notes, _, sender = self._socket.recvmsg(MOST_BYTES, socket.CMSG_SPACE(4))
                except TimeoutError:
                    continue
                except OSError as error:
                    raise AudioError(f"{self._name} cannot be heard any more: {error.strerror or error}") from error
                total = next((struct.unpack("=I", note)[0] for _, kind, note in notes if kind == SO_RXQ_OVFL), dropped)
                if total != dropped:
                    self._overflowed((total - dropped) % 2**32, data)
                    dropped = total
                self._take(data, sender)

    def _overflowed(self, count: int, data: bytes) -> None:
        """Count datagrams that the kernel dropped before this one, which is taken to be as long as they were."""
        lost = round(count * (len(data) // (2 * self._channels)) * self.rate_hz / self._input_hz)
        self._inbox.note("kernel overflow", lost, lost)

    def _take(self, data: bytes, sender: Hashable) -> None:
        if len(data) % (2 * self._channels) or not data:
            self._inbox.note("malformed")
        elif self._is_ours(sender):
            self._give(np.frombuffer(data, "<i2"))

    def _is_ours(self, sender: Hashable) -> bool:
        """Tell whether this is the sender that is heard; a new one is, when the old one has fallen silent."""
        now = time.monotonic()
        if sender != self._sender:
            if self._sender is not None and now - self._heard_s < FRESH_S:
                self._inbox.note("stranger")
                return False
            self._begin_anew()
        self._sender, self._heard_s = sender, now
        return True

    def _begin_anew(self) -> None:
        """Forget what is known of a sender."""

    def _give(self, pcm: NDArray[np.int16]) -> None:
        samples = pcm.reshape(-1, self._channels).astype(np.float32).mean(axis=1) / np.float32(32768)
        self._inbox.put(self._resampler.push(samples))
