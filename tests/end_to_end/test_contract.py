"""The whole way: a Keras model converted, opened as a device opens it, and fed in random cuts, against Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgernn.artifact import Artifact
from edgernn.devices.runner import open_runner
from edgernn.quantize.convert import Options, convert
from edgernn.quantize.oracle import KerasOracle
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.source import KerasSource
from edgernn.stream import FrameStream
from tests.quantize.networks import NETWORKS, randomized

pytestmark = pytest.mark.slow

FRAMES = 2000
# Least signal to noise, decibels: of float32 rounding, of weights in 11 bits, in 8, and in 4.
LEAST_SNR_DB = {
    "float32": 100.0, "float16": 45.0, "weights-int8": 30.0, "dynamic-int8": 25.0, "int8": 14.0, "int4": 8.0
}  # fmt: skip
RUNTIMES = {"tflite": "litert", "onnx": "onnxruntime"}
# every scheme once, and the two in integers wherever time is cut differently
CASES = [("residual", scheme) for scheme in SCHEMES]
CASES += [(name, scheme) for name in ("branches_early", "crnn", "valid_chain") for scheme in ("dynamic-int8", "int8")]


def artifact_of(name: str, scheme: str, folder: Path) -> tuple[Any, Artifact]:
    model = randomized(NETWORKS[name]())
    options = Options(formats=SCHEMES[scheme].formats, scheme=SCHEMES[scheme], tolerance=SCHEMES[scheme].tolerance)
    source = KerasSource(model=model, path=Path(f"{name}.keras"), sha256="", name=name)
    return model, convert(source, folder / name, options)


def in_random_cuts(stream: FrameStream, frames: list[NDArray[np.float32]], seed: int) -> list[NDArray[np.float32]]:
    random, begin, parts = np.random.default_rng(seed), 0, []
    while begin < len(frames[0]):
        end = begin + int(random.integers(0, 40))
        parts.append(stream.push(*(array[begin:end] for array in frames)))
        begin = end
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def snr_db(truth: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    noise = float(np.mean((found.astype(np.float64) - truth) ** 2))
    return 10 * np.log10(float(np.mean(truth.astype(np.float64) ** 2)) / noise) if noise else 200.0


@pytest.mark.parametrize(("name", "scheme"), CASES)
def test_random_cuts_give_what_keras_gives(name: str, scheme: str, tmp_path: Path) -> None:
    model, artifact = artifact_of(name, scheme, tmp_path)
    random = np.random.default_rng(7)
    frames = [random.standard_normal((FRAMES, item.shape[2])).astype(np.float32) for item in model.inputs]
    truths = KerasOracle(model)(frames)
    for kind in SCHEMES[scheme].formats:
        runtime = RUNTIMES[kind]
        stream = FrameStream(open_runner(artifact, runtime=runtime))
        spec = stream.runner.spec
        for attempt in range(2):
            found = in_random_cuts(stream, frames, seed=attempt)
            for output, shape, truth, values in zip(spec.outputs, spec.output_kinds, truths, found, strict=True):
                whole = truth[: len(values)] if shape == "frames" else truth[None]
                made = values if shape == "frames" else values[-1:]
                assert len(values) >= (FRAMES // spec.frames_per_step - spec.warmup_steps)
                assert snr_db(whole, made) >= LEAST_SNR_DB[scheme], (runtime, output.name, attempt)
            stream.reset()
