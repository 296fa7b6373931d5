"""PCM over RTP: `rtp://0.0.0.0:5004?rate=16000`, payload L16 (RFC 3551): big-endian samples of 16 bits.

Its numbers put packets in order that overtook each other, and tell how much is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np

from edgernn.devices.sources.udp import Address, UdpOptions, UdpSource
from edgernn.errors import UsageError

__all__ = ["Packet", "Reorder", "RtpOptions", "RtpSource", "read_packet"]

STATIC = {10: (44100, 2), 11: (44100, 1)}  # rate and channels of the payload types that need no agreement
DYNAMIC = range(96, 128)
RESTART = 3000  # a jump of so many numbers is another beginning (RFC 3550, A.1: MAX_DROPOUT)
MOST_GAP_S = 60.0


@dataclass(frozen=True)
class RtpOptions(UdpOptions):
    """Options of the source."""

    window: int = 4
    """How many packets may overtake one that is late, before it counts as lost."""
    type: int | None = None
    """Payload type, where only one is to be heard."""


@dataclass(frozen=True)
class Packet:
    """What matters of an RTP packet."""

    number: int
    timestamp: int
    sender: int
    kind: int
    payload: bytes


def read_packet(data: bytes) -> Packet:
    """Read one; raise `ValueError` if it is none (RFC 3550, 5.1)."""
    if len(data) < 12 or data[0] >> 6 != 2:
        raise ValueError("no RTP")
    flags, kind, number, timestamp, sender = struct.unpack_from("!BBHII", data)
    begin, end = 12 + 4 * (flags & 0x0F), len(data)
    if flags & 0x10:  # an extension
        if end < begin + 4:
            raise ValueError("cut off")
        begin += 4 + 4 * struct.unpack_from("!H", data, begin + 2)[0]
    if flags & 0x20:  # padding, whose last byte says how much
        end -= data[-1]
    if begin > end:
        raise ValueError("cut off")
    return Packet(number, timestamp, sender, kind & 0x7F, data[begin:end])


class Reorder:
    """Packets by their number, which goes round at 2^16; those that are too late, or come twice, are left out."""

    def __init__(self, window: int) -> None:
        self._window = window
        self.reset()

    def reset(self) -> None:
        """Begin anew with whatever comes next."""
        self._next: int | None = None
        self._held: dict[int, Packet] = {}

    def push(self, packet: Packet) -> Iterator[tuple[int, Packet]]:
        """Take one; yield those that are in order now, with how many are missing before each."""
        if self._next is None:
            self._next = packet.number
        ahead = _signed(packet.number - self._next, 16)
        if abs(ahead) > RESTART:
            yield from self.flush()
            self._next, ahead = packet.number, 0
        if ahead < 0:
            return
        self._held[packet.number] = packet
        missing = 0
        while self._held:
            if self._next not in self._held:
                if len(self._held) <= self._window:
                    return
                step = min(_signed(number - self._next, 16) for number in self._held)
                missing, self._next = step, (self._next + step) & 0xFFFF
            yield missing, self._held.pop(self._next)
            missing, self._next = 0, (self._next + 1) & 0xFFFF

    def flush(self) -> Iterator[tuple[int, Packet]]:
        """Yield what waits for packets that will not come."""
        window, self._window = self._window, 0
        if self._held:
            yield from self.push(next(iter(self._held.values())))
        self._window = window


class RtpSource(UdpSource):
    """Hears one sender (SSRC) at a time."""

    def __init__(self, address: Address, options: RtpOptions, rate_hz: int) -> None:
        self._options = options
        self._kind = options.type
        self._model_hz = rate_hz
        self._reorder = Reorder(options.window)
        self._expected: int | None = None  # the next packet's time stamp
        if options.type in STATIC:
            rate, channels = STATIC[options.type]
            options = RtpOptions(rate, channels, options.window, options.type)
        elif options.type is not None and options.type not in DYNAMIC:
            raise UsageError(f"rtp takes L16: payload types 10, 11 and 96 to 127, not {options.type}")
        super().__init__(address, options, rate_hz)

    def _overflowed(self, count: int, data: bytes) -> None:
        """Count nothing: the numbers tell what is missing."""

    def _take(self, data: bytes, sender: Hashable) -> None:
        try:
            packet = read_packet(data)
        except ValueError:
            self._inbox.note("malformed")
            return
        if (packet.kind not in STATIC and packet.kind not in DYNAMIC) or self._kind not in (None, packet.kind):
            self._inbox.note("other payload")
        elif self._is_ours(packet.sender):
            for missing, ready in self._reorder.push(packet):
                self._give_packet(ready, missing)

    def _begin_anew(self) -> None:
        for missing, ready in self._reorder.flush():
            self._give_packet(ready, missing)
        self._reorder.reset()
        self._expected = None

    def _give_packet(self, packet: Packet, missing: int) -> None:
        rate, channels = STATIC.get(packet.kind, (self._input_hz, self._channels))
        if len(packet.payload) % (2 * channels) or not packet.payload:
            self._inbox.note("malformed")
            return
        if (rate, channels) != (self._input_hz, self._channels):
            self._change(rate, channels)
        length = len(packet.payload) // (2 * channels)
        gap = 0 if self._expected is None else _signed(packet.timestamp - self._expected, 32)
        if not 0 <= gap <= MOST_GAP_S * rate:
            gap = missing * length  # the sender's clock jumped
        if gap:
            lost = round(gap * self.rate_hz / rate)
            self._inbox.note("lost" if missing else "silence", lost, lost)
        self._expected = (packet.timestamp + length) & 0xFFFFFFFF
        self._give(np.frombuffer(packet.payload, ">i2").astype(np.int16))

    def _change(self, rate: int, channels: int) -> None:
        from edgernn.devices.sources.resample import Resampler

        self._input_hz, self._channels = rate, channels
        self._resampler = Resampler(rate, self._model_hz)


def _signed(number: int, bits: int) -> int:
    """Return a difference of numbers that go round, as the nearest whole number.

    >>> _signed(2 - 65535, 16), _signed(65535 - 2, 16)
    (3, -3)
    """
    half = 1 << (bits - 1)
    return (number + half) % (2 * half) - half
