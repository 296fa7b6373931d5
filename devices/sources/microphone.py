"""A microphone, through PortAudio."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.devices.sources.pieces import Pieces
from edgernn.devices.sources.resample import Resampler
from edgernn.errors import AudioError, MissingDependencyError
from edgernn.stream import Chunk

__all__ = ["MicrophoneSource", "find_microphone", "list_microphones"]

CHUNK_S = 0.02  # unless pieces are asked for
QUEUE_S = 5.0  # how far the reader may fall behind before sound is dropped
LOOK_S = 5.0  # that a process may take which looks for a microphone
SILENT_S = 3.0  # without a callback for so long, the device is gone


class _PortAudio:
    """PortAudio looks for devices when it begins, and never again; so, after a microphone failed, it begins anew.

    That would end the streams of other microphones: as long as one is open, another that was unplugged is found only
    if it comes back under its old number.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._stale = False

    def enter(self, sounddevice: Any) -> None:
        """Count one that is about to be opened, and look for devices anew if that makes sense."""
        with self._lock:
            if self._stale and not self._open:
                sounddevice._terminate()
                sounddevice._initialize()
                self._stale = False
            self._open += 1

    def leave(self) -> None:
        """Count one that is closed."""
        with self._lock:
            self._open -= 1

    @property
    def in_use(self) -> bool:
        """Whether a microphone is open, so that others that are plugged in are not seen."""
        return self._open > 0

    def failed(self) -> None:
        """Note that the devices there are may be others now."""
        self._stale = True


_portaudio = _PortAudio()


class MicrophoneSource:
    """Mono sound as it is recorded.

    PortAudio's thread only copies a block and puts it into a bounded queue: when that is full the block is dropped,
    and the next chunk says how many samples were lost. `device` is a name, part of one, a number, or empty for the
    default. A device without the rate asked for is opened at its own rate, and resampled. Blocks are as long as each of
    the `pieces`; of the very first one only the end is taken, so that they end where pieces do.
    """

    def __init__(self, device: str, rate_hz: int, pieces: Pieces | None = None) -> None:
        self.rate_hz = rate_hz
        self._wanted = pieces or Pieces(each=round(CHUNK_S * rate_hz), first=round(CHUNK_S * rate_hz))
        self._sounddevice: Any = _sounddevice()
        self._device = _as_portaudio(device)
        # A SimpleQueue, since its put never waits for a lock that the reader holds.
        self._queue: queue.SimpleQueue[tuple[NDArray[np.float32], float, int]] = queue.SimpleQueue()
        self._lost = 0  # since the last block that was queued, in samples of the device
        self._next_adc_s = 0.0
        self._closed = False
        _portaudio.enter(self._sounddevice)
        try:
            self._device_hz = self._find_rate()
            self._resampler = Resampler(self._device_hz, rate_hz)
            self._pieces = self._wanted.at(rate_hz, self._device_hz)
            self._limit = max(1, round(QUEUE_S * self._device_hz / self._pieces.each))
            self._stream = self._open()
        except BaseException:
            _portaudio.leave()
            _portaudio.failed()
            raise

    def _find_rate(self) -> int:
        """Return the rate asked for, or the device's own if it lacks that; raise `AudioError` if there is none."""
        found = _query(self._sounddevice, self._device)
        try:
            self._sounddevice.check_input_settings(self._device, 1, "float32", samplerate=self.rate_hz)
        except self._sounddevice.PortAudioError:
            return int(found["default_samplerate"])
        return self.rate_hz

    def _open(self) -> Any:
        try:
            stream = self._sounddevice.InputStream(
                samplerate=self._device_hz,
                blocksize=self._pieces.each,
                device=self._device,
                channels=1,
                dtype="float32",
                latency="low",
                callback=self._callback,
            )
            try:
                stream.start()
            except BaseException:
                stream.close()  # else PortAudio keeps it, and each try leaves another one
                raise
        except self._sounddevice.PortAudioError as error:
            raise AudioError(_no_microphone(self._device, error)) from error
        return stream

    def _callback(self, block: NDArray[np.float32], frames: int, times: Any, status: Any) -> None:
        """Run in PortAudio's thread: must not wait."""
        if status.input_overflow:  # PortAudio dropped some; its clock tells about how many
            gap = round((times.inputBufferAdcTime - self._next_adc_s) * self._device_hz)
            self._lost += max(1, gap) if self._next_adc_s else 1
        self._next_adc_s = times.inputBufferAdcTime + frames / self._device_hz
        if self._queue.qsize() >= self._limit:
            self._lost += frames
            return
        self._queue.put((block[:, 0].copy(), time.monotonic(), self._lost))
        self._lost = 0

    def __iter__(self) -> Iterator[Chunk]:
        parts: list[NDArray[np.float32]] = []
        position, wanted, before_s, lost_before = 0, 1, 0.0, 0
        for samples, time_s, lost in self._blocks():
            if lost and parts:  # nothing is joined over a gap
                yield self._chunk(parts, before_s, lost_before)
                parts = []
            if not parts:
                wanted, lost_before = self._pieces.missing(position), lost
            parts.append(samples if position else samples[-self._pieces.first :])
            position, before_s = position + len(parts[-1]), time_s
            if sum(map(len, parts)) >= wanted:
                yield self._chunk(parts, time_s, lost_before)
                parts = []

    def _blocks(self) -> Iterator[tuple[NDArray[np.float32], float, int]]:
        """Give blocks as they come: samples, when they were there, and how many were lost before them."""
        silent_since = time.monotonic()
        while not self._closed:
            try:
                block = self._queue.get(timeout=0.1)
            except queue.Empty:
                if self._closed:
                    return
                if not self._stream.active or time.monotonic() - silent_since > SILENT_S:
                    _portaudio.failed()
                    raise AudioError("the microphone stopped delivering: is it still plugged in?") from None
                continue
            silent_since = block[1]
            yield block

    def _chunk(self, parts: list[NDArray[np.float32]], time_s: float, lost: int) -> Chunk:
        samples = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return Chunk(self._resampler.push(samples), time_s, round(lost * self.rate_hz / self._device_hz))

    def close(self) -> None:
        """Stop recording and free the device."""
        if not self._closed:
            self._closed = True
            try:
                self._stream.abort()
                self._stream.close()
            except self._sounddevice.PortAudioError:  # it was unplugged
                _portaudio.failed()
            finally:
                _portaudio.leave()


def find_microphone(device: str) -> None:
    """Raise `AudioError` if there is no such microphone; see `MicrophoneSource`."""
    sounddevice = _sounddevice()
    try:
        _query(sounddevice, _as_portaudio(device))
    except AudioError:
        if not _portaudio.in_use or not _is_new(device):
            raise


def _is_new(device: str) -> bool:
    """Tell whether there is a microphone that was plugged in since PortAudio looked, as a process of its own sees."""
    look = "import json, sys, sounddevice; sounddevice.query_devices(json.loads(sys.argv[1]), 'input')"
    command = [sys.executable, "-c", look, json.dumps(_as_portaudio(device))]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=LOOK_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _query(sounddevice: Any, device: int | str | None) -> Any:
    try:
        return sounddevice.query_devices(device, "input")
    except (ValueError, sounddevice.PortAudioError) as error:
        raise AudioError(_no_microphone(device, error)) from error


def _as_portaudio(device: str) -> int | str | None:
    return int(device) if device.isdecimal() else device or None


def list_microphones() -> list[tuple[int, str, int, int]]:
    """Return number, name, channels and own rate in Hz of each device that records."""
    devices = enumerate(_sounddevice().query_devices())
    return [
        (number, device["name"], device["max_input_channels"], round(device["default_samplerate"]))
        for number, device in devices
        if device["max_input_channels"] > 0
    ]


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise MissingDependencyError("the microphone", "sounddevice", "audio") from error
    except OSError as error:  # the package is there, the library it wraps is not
        raise AudioError(
            "the microphone needs the library PortAudio, which is not installed: sudo apt install libportaudio2"
        ) from error
    return sounddevice


def _no_microphone(device: int | str | None, error: Exception) -> str:
    which = "no microphone" if device is None else f"no microphone '{device}'"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{which} can be opened ({reason}): edgernn run --list-devices shows those there are"
