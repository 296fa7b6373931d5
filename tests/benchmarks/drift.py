"""Does the error of a quantized step grow with time? EdgeRNN's schemes against plain post-training quantization.

    python -m tests.benchmarks.drift [--run FOLDER ...] [--quick]

The networks: LSTM(128) and GRU(128) on 40 features with 12 classes, as initialized; the GRU(128) of the published
keyword spotter, on what its convolutions make of real speech; and the LSTM and GRU layers of any training run
(`--run`), on its own frames. The peer is the same step written by hand in TensorFlow, states as inputs and outputs,
which the stock converter quantizes fully to int8 with those very frames as representative data.

Errors are those of the softmax over 5,000 steps from one reset, against Keras on the whole sequence: the largest in the
first 500 steps and in all; and the slope of a straight line through the means of 50 blocks of 100 steps, with its
standard error, in softmax units for each 1,000 steps. Times are medians of bare runs, in turns in one process, by
the peer's.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgernn.quantize.examples import Streams
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.stepping import invoke_tflite, open_tflite, steps
from edgernn.quantize.target import CPU, Target
from edgernn.text import table

__all__ = ["OURS", "Drift", "Network", "drift_of", "networks", "pretrained_gru", "variants"]

Array = NDArray[np.float32]
STEPS, BLOCK = 5000, 100
FEATURES, UNITS, CLASSES = 40, 128, 12
PRETRAINED = Path(__file__).parent.parent.parent / "train" / "pretrained" / "keyword-crnn"


class Drift(NamedTuple):
    """The error of one variant over a long stream."""

    worst_500: float
    worst: float
    slope: float
    """Each 1,000 steps."""
    slope_error: float
    snr_db: float


@dataclass(frozen=True)
class Network:
    """A Keras model that ends in a softmax, frames to calibrate on, and others to step through."""

    name: str
    model: Any
    calibration: Array
    frames: Array


class Variant(NamedTuple):
    """A file, and a function that steps it from reset through frames."""

    content: bytes
    run: Callable[[Array], Array]


def drift_of(found: Array, truth: Array) -> Drift:
    """Compare outputs `(steps, classes)` with what they should be."""
    error = np.abs(found.astype(np.float64) - truth).max(axis=-1)
    blocks = error[: len(error) // BLOCK * BLOCK].reshape(-1, BLOCK).mean(axis=1)
    at = (np.arange(len(blocks)) + 0.5) * BLOCK / 1000
    slope, level = np.polyfit(at, blocks, 1)
    residual = blocks - (slope * at + level)
    slope_error = np.sqrt((residual**2).sum() / (len(at) - 2) / ((at - at.mean()) ** 2).sum())
    noise = np.mean((found.astype(np.float64) - truth) ** 2)
    snr = 10 * np.log10(truth.var(axis=0).mean() / max(noise, 1e-20))
    return Drift(float(error[:500].max()), float(error.max()), float(slope), float(slope_error), float(snr))


def networks(runs: list[Path]) -> Iterator[Network]:
    """Return the networks of the comparison."""
    import keras
    from keras import layers

    random = np.random.default_rng(0)
    noise = random.standard_normal((2, STEPS, FEATURES)).astype(np.float32)
    for cell in (layers.LSTM, layers.GRU):
        keras.utils.set_random_seed(0)
        top = layers.Dense(CLASSES, activation="softmax")
        model = keras.Sequential([keras.Input((None, FEATURES)), cell(UNITS, return_sequences=True), top])
        yield Network(f"{cell.__name__}-{UNITS}, untrained", model, noise[0], noise[1])
    yield pretrained_gru()
    for folder in runs:
        frames = _joined(np.load(folder / "calibration.npz")["x"])
        dev = np.load(folder / "dev.npz")["x"]
        yield Network(folder.name, _recurrent_part(_load(folder)), frames, _joined(dev)[:STEPS])


def pretrained_gru() -> Network:
    """Return the GRU of the published network, on what its convolutions make of its calibration streams."""
    import keras

    model = _load(PRETRAINED)
    first = next(layer for layer in model.layers if type(layer).__name__ == "GRU")
    streams = np.load(PRETRAINED / "calibration.npz")["x"]
    features = _joined(keras.Model(model.input, first.input).predict(streams, verbose=0))
    return Network("GRU-128 of the published keyword spotter", _recurrent_part(model), features, features[:STEPS])


def _load(folder: Path) -> Any:
    import keras

    return keras.models.load_model(folder / "model.keras", compile=False)


def _joined(streams: Array) -> Array:
    return streams.reshape(-1, streams.shape[-1])


def _recurrent_part(source: Any) -> Any:
    """Return the LSTM, GRU and Dense layers of a model, with a softmax for every frame."""
    import keras

    kept = [layer for layer in source.layers if type(layer).__name__ in ("LSTM", "GRU", "Dense")]
    changes = [
        {"activation": "softmax"} if type(layer).__name__ == "Dense" else {"return_sequences": True} for layer in kept
    ]
    made = [type(layer).from_config({**layer.get_config(), **new}) for layer, new in zip(kept, changes, strict=True)]
    model = keras.Sequential([keras.Input((None, kept[0].input.shape[-1])), *made])
    for new, old in zip(made, kept, strict=True):
        new.set_weights(old.get_weights())
    return model


def variants(network: Network, schemes: Mapping[str, tuple[str, Target]]) -> dict[str, Variant]:
    """Return EdgeRNN's files of a network, by name."""
    from edgernn.quantize.from_keras import from_keras
    from edgernn.quantize.streaming import stream
    from edgernn.quantize.to_tflite import plain_tflite, quantized_tflite

    plain = plain_tflite(stream(from_keras(network.model)))
    calibration: Streams = [(network.calibration[start : start + 500],) for start in range(0, STEPS, 500)]
    made = {}
    for name, (scheme, target) in schemes.items():
        content, spec = quantized_tflite(*plain, SCHEMES[scheme], calibration, target)

        def run(frames: Array, content: bytes = content, spec: Any = spec) -> Array:
            taken = steps(invoke_tflite(content), spec, [frames])
            return np.concatenate([outputs[spec.outputs[0].name][0] for outputs in taken])

        made[name] = Variant(content, run)
    return made


OURS = {
    "float32": ("float32", CPU),
    "dynamic-int8": ("dynamic-int8", CPU),
    "int8": ("int8", CPU),
    "int8, floor tflite-runtime-2.14": ("int8", Target("cpu", "tflite-runtime-2.14")),
    "int8, integer-only": ("int8", Target("integer-only")),
    "int4": ("int4", CPU),
}


def _microseconds(files: Mapping[str, bytes], rounds: int) -> dict[str, float]:
    """Return the median time of a bare run of each file, taking turns."""
    runs = {name: open_tflite(content).invoke for name, content in files.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            start = time.perf_counter()
            for _ in range(20):
                run()
            times[name].append((time.perf_counter() - start) / 20 * 1e6)
    return {name: float(np.median(taken)) for name, taken in times.items()}


def compare(network: Network, rounds: int) -> str:
    """Return the table of one network."""
    from tests.benchmarks.plain_step import plain_int8

    truth = network.model.predict(network.frames[None], verbose=0)[0]
    plain = plain_int8(network.model, network.calibration)
    found = {"plain int8 (stock converter)": Variant(plain.content, plain), **variants(network, OURS)}
    drifts = {name: drift_of(variant.run(network.frames), truth) for name, variant in found.items()}
    times = _microseconds({name: variant.content for name, variant in found.items()}, rounds)
    base, base_us = next(iter(drifts.values())), next(iter(times.values()))
    header = ["", "KB", "time", "worst of 500", "of plain", "worst of 5000", "slope / 1000", "SNR dB"]
    rows = [
        [
            name, f"{len(found[name].content) / 1024:.0f}", f"{times[name] / base_us:.2f}", f"{drift.worst_500:.4f}",
            f"{drift.worst_500 / base.worst_500:.2f}", f"{drift.worst:.4f}",
            f"{drift.slope:+.1e} ± {drift.slope_error:.0e}", f"{drift.snr_db:.1f}",
        ]
        for name, drift in drifts.items()
    ]  # fmt: skip
    return f"{network.name} (plain: {base_us:.1f} µs)\n{table(header, rows)}\n"


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, action="append", default=[], metavar="FOLDER", help="a training run, too")
    parser.add_argument("--quick", action="store_true", help="fewer rounds of timing")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for network in networks(options.run):
        print(compare(network, 30 if options.quick else 400), flush=True)


if __name__ == "__main__":
    main()
