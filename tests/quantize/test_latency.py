"""The latency that an artifact declares is the one that an impulse takes through it, in the runtime itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import onnx_ir as ir
import pytest
from keras import layers

from edgernn.artifact import ModelFile
from edgernn.devices.runner import open_model
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.simplify import simplify
from edgernn.quantize.streaming import stream
from edgernn.quantize.to_tflite import to_tflite
from edgernn.stream import Context
from edgernn.testing import FakeRunner, impulse_latencies
from tests.quantize.networks import Array, Build, chain, frames, keras_outputs, randomized


def _every_kind() -> Any:
    """Outputs that wait for a valid window, for a look-ahead, for nothing, at half the rate, and for the whole."""
    first = frames()
    value = layers.Conv1D(4, 5, padding="same")(first)
    return keras.Model(
        first,
        [
            layers.Conv1D(3, 4)(first),
            layers.GRU(4, return_sequences=True)(value),
            layers.GRU(4, return_sequences=True)(first),
            layers.Conv1D(3, 3, strides=2)(value),
            layers.LSTM(3)(first),
        ],
    )


NETWORKS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "causal": (lambda: chain(layers.Conv1D(4, 5, padding="causal"), layers.GRU(4, return_sequences=True)), (0,)),
    "valid": (lambda: chain(layers.Conv1D(4, 3, dilation_rate=4)), (8,)),
    "strided": (lambda: chain(layers.Conv1D(4, 5, strides=2), layers.Conv1D(4, 3, strides=2)), (8,)),
    "look-ahead": (lambda: chain(layers.Conv1D(4, 7, padding="same"), layers.LSTM(3, return_sequences=True)), (3,)),
    "summary": (lambda: chain(layers.Conv1D(4, 5), layers.GlobalAveragePooling1D()), (0,)),
    "every kind": (_every_kind, (3, 2, 0, 4, 0)),
}


def latencies(content: bytes, kind: str, spec: Any, model: Any, folder: Path) -> tuple[int, ...]:
    path = folder / f"step.{kind}"
    path.write_bytes(content)
    runner = open_model(ModelFile(kind, path, "float32", spec, len(content)))

    def whole(*inputs: Array) -> list[Array]:
        return [output[0] for output in keras_outputs(model, [array[None] for array in inputs])]

    return impulse_latencies(runner, whole, at=24)


@pytest.mark.parametrize(("frames_per_step", "batch"), [(1, 1), pytest.param(2, 2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_declared_latency_is_what_an_impulse_takes(name: str, frames_per_step: int, batch: int, tmp_path: Path) -> None:
    build, expected = NETWORKS[name]
    model = randomized(build())
    graph = from_keras(model)
    step = stream(graph, frames_per_step * stream(graph).frames_per_step, batch)
    content, spec = ir.to_proto(simplify(step.model)).SerializeToString(), step.spec()
    measured = latencies(content, "onnx", spec, model, tmp_path)
    assert spec.latency_frames == max(measured)
    for found, wanted, kind, delay, output in zip(
        measured, expected, spec.output_kinds, spec.output_delays, spec.outputs, strict=True
    ):
        assert found >= wanted
        if kind == "frames":
            assert found == delay * spec.frames_per_step // output.shape[1]
        if frames_per_step == 1:
            assert found == wanted


@pytest.mark.slow
def test_declared_latency_is_true_in_tflite(tmp_path: Path) -> None:
    build, expected = NETWORKS["every kind"]
    model = randomized(build())
    content, spec = to_tflite(stream(from_keras(model)), SCHEMES["float32"])
    assert latencies(content, "tflite", spec, model, tmp_path) == expected


def test_a_stream_that_is_late_is_found_out() -> None:
    class Late(FakeRunner):
        def reset(self, stream: int | None = None, context: Context | None = None) -> None:
            super().reset(stream, context)
            self.before: Array | None = None

        def step(self, *given: Array) -> tuple[Array, ...]:
            (now,) = super().step(*given)
            before, self.before = self.before, now.copy()
            return (now * 0 if before is None else before,)

    assert impulse_latencies(Late(features=2), lambda array: [array.cumsum(axis=0)]) == (1,)
    with pytest.raises(AssertionError, match="changes nothing"):
        impulse_latencies(FakeRunner(features=2), lambda array: [array * 0])
