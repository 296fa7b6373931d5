"""Examples and recordings that are damaged or make no sense."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.case import Bases, Case, Prepare, flips, truncations

FEATURES = 6


def calibrated(name: str, make: Callable[[bytes], bytes]) -> Prepare:
    """Return what converts a sound model with examples made of the sound ones' bytes."""

    def prepare(folder: Path, bases: Bases) -> list[object]:
        (folder / name).write_bytes(make(bases.npz.read_bytes()))
        model = ["convert", bases.keras, "-o", folder / "out", "--to", "onnx", "-q"]
        return [*model, "--quantize", "int8", "--calibrate", folder / name]

    return prepare


def heard(name: str, make: Callable[[bytes], bytes]) -> Prepare:
    """Return what runs a sound artifact on a recording made of the sound one's bytes."""

    def prepare(folder: Path, bases: Bases) -> list[object]:
        (folder / name).write_bytes(make(bases.wav.read_bytes()))
        return ["run", bases.artifact, folder / name, "--fast"]

    return prepare


def npy(array: Any) -> Callable[[bytes], bytes]:
    def make(_: bytes) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        return buffer.getvalue()

    return make


def header(text: str) -> Callable[[bytes], bytes]:
    """Return an `.npy` file with this for a header and no data."""
    padded = text.ljust(117) + "\n"
    return lambda _: b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode()


def claim(shape: str, descr: str = "<f4") -> Callable[[bytes], bytes]:
    return header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}")


def npz(*contents: tuple[str, bytes], size: int | None = None) -> Callable[[bytes], bytes]:
    def make(_: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in contents:
                archive.writestr(name, data)
                archive.filelist[-1].file_size = size or len(data)
        return buffer.getvalue()

    return make


def field(offset: int, form: str, value: int) -> Callable[[bytes], bytes]:
    """Return what overwrites a field of a WAV header."""
    packed = struct.pack(form, value)
    return lambda old: old[:offset] + packed + old[offset + len(packed) :]


def cases() -> Iterator[tuple[str, Case]]:
    """Yield every case with its name."""
    for name, change in truncations(6):
        yield f"npz {name}", Case(calibrated("data.npz", change), "data.npz")
        yield f"wav {name}", Case(heard("clip.wav", change), "clip.wav")
    for seed in range(4):
        yield f"npz 64 bits {seed} flipped", Case(calibrated("data.npz", flips(seed, 64)), "data.npz")
    for name, change in EXAMPLES.items():
        yield f"examples {name}", Case(calibrated("data.npy", change), "data.npy")
    for name, change in ARCHIVES.items():
        yield f"examples {name}", Case(calibrated("data.npz", change), "data.npz")
    for name, change in RECORDINGS.items():
        yield f"recording {name}", Case(heard("clip.wav", change), "clip.wav")
    for name, prepare in PLACES.items():
        yield f"data at {name}", Case(prepare)


EXAMPLES: dict[str, Callable[[bytes], bytes]] = {
    "that are pickled": npy(np.array([{}], object)),
    "that are words": npy(np.array([["a"] * FEATURES] * 9)),
    "that are dates": npy(np.zeros((9, FEATURES), "M8[s]")),
    "that are pairs": npy(np.zeros((9, FEATURES), np.complex64)),
    "that are NaN": npy(np.full((600, FEATURES), np.nan)),
    "that are infinite": npy(np.full((600, FEATURES), np.inf)),
    "that are too large": npy(np.full((600, FEATURES), 1e300)),
    "that are too wide": npy(np.zeros((600, FEATURES + 1), np.float32)),
    "that are none": npy(np.zeros((0, FEATURES), np.float32)),
    "of one number": npy(np.float32(1)),
    "of five axes": npy(np.zeros((1, 1, 1, 9, FEATURES), np.float32)),
    "without end": claim("(1000000000000, 6)"),
    "without any end": claim("(1000000000000000000000, 6)"),
    "of negative length": claim("(-1, 6)"),
    "with code for a shape": claim("__import__('os').getpid()"),
    "with an odd header": header("{'descr': '<f4'}"),
    "with a deep header": header("(" * 100),
    "with an odd type": claim("(9, 6)", "|O99"),
    "of text": lambda _: b"1,2,3\n" * 99,
}

ARCHIVES: dict[str, Callable[[bytes], bytes]] = {
    "in an empty archive": npz(),
    "in an archive of text": npz(("notes.txt", b"nothing")),
    "in a pickled archive": npz(("x.npy", npy(np.array([{}], object))(b""))),
    "in an archive above": npz(("../../x.npy", b"")),
    "in an archive that claims terabytes": npz(("x.npy", claim("(1000000000000, 6)")(b"")), size=2**42),
    "in an archive of two": npz(("a.npy", npy(np.zeros((9, 6)))(b"")), ("b.npy", npy(np.zeros((9, 6)))(b""))),
}

RECORDINGS: dict[str, Callable[[bytes], bytes]] = {
    "of text": lambda _: b"RIFF and so on",
    "without a header": lambda old: old[44:],
    "of no channels": field(22, "<H", 0),
    "of many channels": field(22, "<H", 65535),
    "of no rate": field(24, "<I", 0),
    "of no bits": field(34, "<H", 0),
    "of five bytes": field(34, "<H", 40),
    "of many bits": field(34, "<H", 65535),
    "of another code": field(20, "<H", 0x1234),
    "longer than it is": field(40, "<I", 0x7FFEFFFF),
    "without samples": lambda old: old[:40] + bytes(4),
    "with NaN": lambda _: _float_wav(float("nan")),
    "in an odd container": lambda _: b"fLaC" + bytes(64),
    "in another container": lambda _: b"OggS" + bytes(64),
}


def _float_wav(value: float) -> bytes:
    data = np.full(800, value, "<f4").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, 16000, 64000, 4, 32)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def _at(put: Callable[[Path], object]) -> Prepare:
    def prepare(folder: Path, bases: Bases) -> list[object]:
        put(folder / "clip.wav")
        return ["run", bases.artifact, folder / "clip.wav", "--fast"]

    return prepare


def _examples_at(name: str, put: Callable[[Path], object]) -> Prepare:
    def prepare(folder: Path, bases: Bases) -> list[object]:
        put(folder / name)
        return ["convert", bases.keras, "-o", folder / "out", "-q", "--calibrate", folder / name]

    return prepare


PLACES: dict[str, Prepare] = {
    "a recording that is a pipe": _at(os.mkfifo),
    "a recording that is a folder": _at(lambda path: path.mkdir()),
    "a recording linked to a device": _at(lambda path: path.symlink_to("/dev/zero")),
    "a recording linked to itself": _at(lambda path: path.symlink_to(path)),
    "examples that are a pipe": _examples_at("data.npz", os.mkfifo),
    "examples that are a folder": _examples_at("data.npz", lambda path: path.mkdir()),
    "examples linked to a device": _examples_at("data.npy", lambda path: path.symlink_to("/dev/zero")),
    "examples linked to themselves": _examples_at("data.npy", lambda path: path.symlink_to(path)),
}
