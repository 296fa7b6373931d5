"""A malformed input, and what it is given to."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Bases", "Case", "Prepare", "edit_manifest", "flips", "truncations"]


@dataclass(frozen=True)
class Bases:
    """Small sound files to spoil copies of."""

    keras: Path
    """A `.keras` file of GRU and Dense."""
    h5: Path
    """The same in the older format."""
    saved: Path
    """The same as a SavedModel without layers, the folder that Keras 3 exports."""
    onnx: Path
    """A sequence model of LSTM and MatMul."""
    artifact: Path
    """An artifact with front end, decoder and certificate, in both formats."""
    wav: Path
    npz: Path
    """Frames for the Keras model."""


Prepare = Callable[[Path, Bases], list[object]]
"""Puts files into a folder and returns the command line."""


@dataclass(frozen=True)
class Case:
    """One input: how it is made, and what the message must say."""

    prepare: Prepare
    says: str = ""
    """A part of the message."""


def flips(seed: int, bits: int = 1) -> Callable[[bytes], bytes]:
    """Return what turns some bits of a content over."""

    def change(content: bytes) -> bytes:
        place, changed = random.Random(seed), bytearray(content)
        for _ in range(bits):
            changed[place.randrange(len(changed))] ^= 1 << place.randrange(8)
        return bytes(changed)

    return change


def truncations(count: int) -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    """Yield a name, and what cuts a content off there, `count` times from nothing to all but two bytes."""
    for index in range(count):
        yield f"cut after {index}/{count - 1}", _cut(index, count)


def _cut(index: int, count: int) -> Callable[[bytes], bytes]:
    return lambda content: content[: (len(content) - 2) * index // (count - 1)]  # a manifest ends with a line feed


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change an artifact's manifest, and give it the digests that its files have now."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")
