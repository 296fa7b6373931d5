"""More streams and more frames in one step: each stream gives what it gives alone, and what the source gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from keras import layers

from edgernn.artifact import ModelFile
from edgernn.devices.runner import open_model
from edgernn.errors import UsageError
from edgernn.quantize.calibrate import observe
from edgernn.quantize.cells import decompose_cells
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.oracle import KerasOracle
from edgernn.quantize.parity import expected_outputs, measure
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.simplify import simplify
from edgernn.quantize.stepping import invoke_onnx, steps
from edgernn.quantize.streaming import StepGraph, stream
from edgernn.testing import check_runner
from tests.quantize.lowering import lowered
from tests.quantize.networks import NETWORKS, Array, chain, randomized, streams_for

BATCH = 3


def lanes_for(model: object, length: int) -> list[Array]:
    """Return for each input as many different streams as the batch has, `(batch, frames, features)`."""
    lanes = [streams_for(model, length, seed) for seed in range(BATCH)]
    return [np.stack(arrays) for arrays in zip(*lanes, strict=True)]


def outputs(graph: StepGraph, fed: list[Array], taken_apart: bool) -> list[Array]:
    """Return what each output gives in the stream, `(batch, frames, features)`, without its warm-up."""
    model, spec = simplify(decompose_cells(graph.model) if taken_apart else graph.model), graph.spec()
    taken = list(steps(invoke_onnx(ir.to_proto(model).SerializeToString()), spec, fed))
    rows = [
        np.stack([step[item.name].reshape(spec.batch, -1, item.shape[-1]) for step in taken], 1)
        for item in spec.outputs
    ]
    return [
        array.reshape(spec.batch, -1, array.shape[-1])[:, delay:]
        for array, delay in zip(rows, spec.output_delays, strict=True)
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_each_stream_of_a_batch_is_as_alone(name: str) -> None:
    model = randomized(NETWORKS[name]())
    graph = from_keras(model)
    alone, together = stream(graph), stream(graph, batch=BATCH)
    fed = lanes_for(model, 8 * alone.frames_per_step + max(alone.spec().output_delays))
    found = outputs(together, fed, taken_apart=True)
    for lane in range(BATCH):
        for one, many in zip(outputs(alone, [array[lane] for array in fed], taken_apart=False), found, strict=True):
            np.testing.assert_allclose(many[lane], one[0], rtol=1e-5, atol=1e-5)
    assert not np.allclose(found[0][0], found[0][1]), "the streams are different ones"


@pytest.mark.parametrize("name", ["residual", "strides_between", "two_rates"])
def test_more_frames_a_step_are_as_the_source_has_them(name: str) -> None:
    model = randomized(NETWORKS[name]())
    graph = from_keras(model)
    few = stream(graph)
    many = stream(graph, frames_per_step=3 * few.frames_per_step)
    assert many.frames_per_step == 3 * few.frames_per_step
    fed = streams_for(model, 16 * many.frames_per_step)
    content = ir.to_proto(simplify(decompose_cells(many.model))).SerializeToString()
    distances = measure(expected_outputs(KerasOracle(model), many, fed), invoke_onnx(content), many.spec(), fed)
    assert all(item.max_abs < 1e-4 for item in distances), distances


def test_each_state_knows_where_its_streams_are() -> None:
    model = chain(layers.Conv1D(3, 3), layers.LSTM(4, return_sequences=True), layers.GlobalAveragePooling1D())
    for state in stream(from_keras(model), batch=BATCH).spec().states:
        assert state.shape[state.batch_axis] == BATCH
        assert BATCH not in (*state.shape[: state.batch_axis], *state.shape[state.batch_axis + 1 :])


@pytest.mark.parametrize("frames", [0, -4, 2, 6])
def test_a_step_takes_whole_strides(frames: int) -> None:
    graph = from_keras(chain(layers.Conv1D(3, 5, strides=4)))
    with pytest.raises(UsageError, match=rf"cannot take {frames} frames.*take 4 or a multiple of that \(4, 8, 12"):
        stream(graph, frames_per_step=frames)


def test_a_batch_has_a_stream_at_least() -> None:
    with pytest.raises(UsageError, match="at least one stream, not 0"):
        stream(from_keras(chain(layers.Dense(2))), batch=0)


def test_numbers_that_nobody_means_are_refused_at_once() -> None:
    graph = from_keras(chain(layers.Conv1D(3, 5, strides=4)))
    with pytest.raises(UsageError, match="at most 1024"):
        stream(graph, batch=10**9)
    with pytest.raises(UsageError, match="at most 4096 frames, not 2000000000"):
        stream(graph, frames_per_step=2 * 10**9)


@pytest.mark.parametrize("name", ["crnn", "two_rates"])
def test_every_stream_of_a_batch_is_compared_with_the_source(name: str) -> None:
    model = randomized(NETWORKS[name]())
    step = stream(from_keras(model), batch=BATCH)
    fed = lanes_for(model, 60 * step.frames_per_step)
    expected, invoke = (
        expected_outputs(KerasOracle(model), step, fed),
        invoke_onnx(ir.to_proto(step.model).SerializeToString()),
    )
    assert all(item.max_abs < 1e-4 for item in measure(expected, invoke, step.spec(), fed))
    swapped = [array[[1, 0, 2]] for array in fed]
    assert any(item.max_abs > 1e-2 for item in measure(expected, invoke, step.spec(), swapped))


def test_calibration_sees_every_stream() -> None:
    step = stream(from_keras(chain(layers.Dense(1), features=1)), batch=2)
    ones = np.ones((20, 1), np.float32)
    ranges = observe(step, [[ones], [-2 * ones[:3]], [5 * ones[:7]]])
    assert ranges["frames"] == (-2.0, 5.0)


def test_no_stream_of_a_batch_changes_another_in_any_quantization(tmp_path: Path) -> None:
    """Not by a bit: a quantizer that takes one scale for all rows would let them."""
    for scheme in (scheme for scheme in SCHEMES.values() if "onnx" in scheme.formats):
        content, spec = lowered("crnn", batch=BATCH).onnx(scheme.name)
        path = tmp_path / f"{scheme.name}.onnx"
        path.write_bytes(content)
        model = ModelFile("onnx", path, scheme.name, spec, len(content))
        check_runner(lambda model=model: open_model(model), steps=24)  # type: ignore[misc]
