"""Raw PCM of any common form to mono samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PcmFormat", "decode"]


@dataclass(frozen=True)
class PcmFormat:
    """Interleaved samples, little-endian; of 8 bits unsigned, of more signed."""

    rate_hz: int
    width: int
    """Bytes of a sample, 1 to 4."""
    channels: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return self.width * self.channels

    def __str__(self) -> str:
        """Return it for a message.

        >>> print(PcmFormat(16000, 2, 1))
        16000 Hz, 16 bits, 1 channel
        """
        return f"{self.rate_hz} Hz, {8 * self.width} bits, {self.channels} channel{'s' if self.channels > 1 else ''}"


def decode(data: bytes, form: PcmFormat) -> NDArray[np.float32]:
    """Return the mean of the channels `(n,)`, full scale at ±1; `data` holds whole samples of every channel.

    >>> decode(bytes([0, 64, 0, 192]), PcmFormat(16000, 2, 1)), decode(bytes([192, 64]), PcmFormat(8000, 1, 2))
    (array([ 0.5, -0.5], dtype=float32), array([0.], dtype=float32))
    """
    samples = DECODERS[form.width](data)
    if form.channels == 1:
        return samples
    mean: NDArray[np.float32] = samples.reshape(-1, form.channels).mean(axis=1, dtype=np.float32)
    return mean


def _of_8_bits(data: bytes) -> NDArray[np.float32]:
    return (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)


def _of_16_bits(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(2**15)


def _of_24_bits(data: bytes) -> NDArray[np.float32]:
    padded = np.zeros((len(data) // 3, 4), np.uint8)
    padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return _of_32_bits(padded.tobytes())


def _of_32_bits(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, "<i4").astype(np.float32) / np.float32(2**31)


DECODERS: dict[int, Callable[[bytes], NDArray[np.float32]]] = {
    1: _of_8_bits,
    2: _of_16_bits,
    3: _of_24_bits,
    4: _of_32_bits,
}
