"""The sound files that malformed ones are made of."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import onnx
from keras import layers

from edgernn.artifact import Artifact, write_artifact
from edgernn.certificate import CERTIFICATE, Bound, Certificate, Golden, Made, on_levels
from edgernn.devices.runner import open_model
from edgernn.machine import describe_processor
from tests.devices.conftest import write_energy_artifact
from tests.hostile.case import Bases
from tests.hostile.onnx_files import sound
from tests.quantize.networks import FEATURES, chain, randomized

__all__ = ["make_bases"]

STEPS = 50


def make_bases(folder: Path) -> Bases:
    """Write them into a folder."""
    model = randomized(chain(layers.GRU(5, return_sequences=True), layers.Dense(3)))
    model.save(folder / "words.keras")
    model.save(folder / "words.h5")
    model.export(folder / "exported", verbose=False)
    np.savez(folder / "frames.npz", np.random.default_rng(0).normal(size=(600, FEATURES)).astype(np.float32))
    onnx.save(sound(), folder / "words.onnx")
    _write_wav(folder / "clip.wav")
    return Bases(
        keras=folder / "words.keras",
        h5=folder / "words.h5",
        saved=folder / "exported",
        onnx=folder / "words.onnx",
        artifact=_certified(write_energy_artifact(folder / "energy")).path,
        wav=folder / "clip.wav",
        npz=folder / "frames.npz",
    )


def _write_wav(path: Path) -> None:
    samples = np.random.default_rng(1).integers(-9000, 9000, 4000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())


def _certified(artifact: Artifact) -> Artifact:
    """Give an artifact a certificate of what it gives now."""
    frames = on_levels(np.random.default_rng(2).standard_normal((STEPS, 40)).astype(np.float32))
    models = artifact.programs["step"]
    runners = {kind: open_model(model) for kind, model in models.items()}
    found = {
        kind: np.stack([runner.step(frame[None])[0].copy() for frame in frames]) for kind, runner in runners.items()
    }
    every = np.arange(STEPS)
    golden = Golden(every, every, found["onnx"], found)
    made = {
        kind: Made(
            runner.runtime,
            describe_processor(),
            (Bound("y", 1.0, float(golden.error(found[kind]).max()), 1e-5, golden.drift(found[kind], STEPS)),),
        )
        for kind, runner in runners.items()
    }
    certificate = Certificate(STEPS, (frames,), (golden,), made, 1e-3, "noise")
    files = {model.path.name: model.path.read_bytes() for model in models.values()}
    manifest = {
        "name": artifact.name,
        "programs": {
            "step": {
                kind: {"file": model.path.name, "scheme": model.scheme, "stream": model.spec.to_dict()}
                for kind, model in models.items()
            }
        },
        "labels": list(artifact.labels),
        "frame_rate_hz": artifact.frame_rate_hz,
        "front_end": artifact.front_end,
        "decoder": artifact.decoder,
        "certificate": certificate.section(),
    }
    return write_artifact(artifact.path, manifest, {**files, CERTIFICATE: certificate.content()})
