"""Networks wide enough for quantization to matter, on their way from Keras to files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import keras
import numpy as np
from keras import layers

from edgernn.quantize.bounds import EXACT, Bounds, Chunked
from edgernn.quantize.calibrate import Ranges, observe
from edgernn.quantize.cells import decompose_cells
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.simplify import simplify
from edgernn.quantize.stepping import invoker, steps
from edgernn.quantize.streaming import StepGraph, stream
from edgernn.quantize.target import CPU, Target
from edgernn.quantize.to_onnx import to_onnx
from edgernn.quantize.to_tflite import plain_tflite, quantized_tflite
from edgernn.spec import StreamSpec
from tests.quantize.networks import Array, Build, chain, frames, keras_outputs, randomized, streams_for

LENGTH = 120


def _wide() -> Any:
    return chain(
        layers.LSTM(48, return_sequences=True), layers.LSTM(32, return_sequences=True), layers.Dense(5), features=20
    )


def _gru() -> Any:
    return chain(layers.GRU(40, reset_after=False, return_sequences=True), layers.Dense(5), features=20)


def _rnn() -> Any:
    return chain(layers.SimpleRNN(40, return_sequences=True), layers.Dense(5), features=20)


def _crnn() -> Any:
    return chain(
        layers.Conv1D(24, 5, strides=2, padding="causal", activation="relu"), layers.BatchNormalization(),
        layers.MaxPooling1D(2), layers.GRU(32, return_sequences=True), layers.GlobalAveragePooling1D(),
        layers.Dense(5), features=20,
    )  # fmt: skip


def _delayed() -> Any:
    """Two rates: windows with a past, and a delay line."""
    first = frames(20)
    fine = layers.Conv1D(16, 4)(first)
    return keras.Model(first, [layers.LSTM(24, return_sequences=True)(fine), layers.Conv1D(8, 3, strides=2)(first)])


def _both_ways() -> Any:
    both = layers.Bidirectional(layers.GRU(40, return_sequences=True, reset_after=False))
    return chain(layers.Bidirectional(layers.LSTM(40, return_sequences=True)), both, layers.Dense(5), features=20)


def _words() -> Any:
    """Words, the last of which are none."""
    words = keras.Input((None,), dtype="int32")
    value = layers.Embedding(40, 32, mask_zero=True)(words)
    value = layers.GRU(32, return_sequences=True)(value)
    return keras.Model(words, layers.Dense(5)(layers.LayerNormalization()(value[..., 4:30])))


NETWORKS: dict[str, Build] = {
    "lstm": _wide, "gru": _gru, "rnn": _rnn, "crnn": _crnn, "delayed": _delayed, "words": _words,
}  # fmt: skip


@dataclass(frozen=True)
class Lowered:
    """A network on its way to files."""

    model: Any
    kept: StepGraph
    taken_apart: StepGraph
    streams: list[Array]
    ranges: Ranges

    def onnx(self, scheme: str) -> tuple[bytes, StreamSpec]:
        return to_onnx(self.kept, self.taken_apart, self.kept.spec(), SCHEMES[scheme], self.ranges)

    @cached_property
    def plain(self) -> tuple[bytes, StreamSpec]:
        """As TFLite in float32: the part of a conversion that takes seconds."""
        return plain_tflite(self.kept)

    def tflite(self, scheme: str, target: Target = CPU) -> tuple[bytes, StreamSpec]:
        return quantized_tflite(*self.plain, SCHEMES[scheme], [tuple(self.streams)], target)


BOUNDED: dict[str, Build] = {"both ways": _both_ways}
BOUNDS = Bounds(Chunked(8, 8))
"""Of the networks in `BOUNDED`."""


@cache
def lowered(name: str, batch: int = 1, frames_per_step: int | None = None) -> Lowered:
    keras.utils.clear_session()  # layers are numbered anew, whichever networks were built before
    model = randomized({**NETWORKS, **BOUNDED}[name]())
    bounds = BOUNDS if name in BOUNDED else EXACT
    step = stream(from_keras(model), batch=batch, frames_per_step=frames_per_step, bounds=bounds)
    kept = replace(step, model=simplify(step.model))
    taken_apart = replace(step, model=simplify(decompose_cells(step.model, rolled=True)))
    streams = streams_for(model, LENGTH)
    return Lowered(model, kept, taken_apart, streams, observe(taken_apart, [streams]))


@cache
def truth(name: str) -> list[Array]:
    return [
        output[0] for output in keras_outputs(lowered(name).model, [array[None] for array in lowered(name).streams])
    ]


def snr_db(name: str, content: bytes, kind: str, spec: StreamSpec) -> float:
    """Return the least SNR of the outputs over the stream (of the last one, where there is one for all of it)."""
    taken = list(steps(invoker(content, kind), spec, lowered(name).streams))
    worst = np.inf
    outputs = zip(spec.outputs, spec.output_kinds, spec.output_delays, truth(name), strict=True)
    for item, when, delay, expected in outputs:
        if when == "prefix":
            found = taken[-1][item.name][0]
        else:
            found = np.concatenate([step[item.name].reshape(-1, expected.shape[-1]) for step in taken])[delay:]
            expected = expected[: len(found)]
        noise = float(np.mean((found.astype(np.float64) - expected) ** 2))
        worst = min(worst, 10 * np.log10(float(np.mean(expected.astype(np.float64) ** 2)) / max(noise, 1e-20)))
    return worst
