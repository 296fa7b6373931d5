"""The proof: distances by hand, what must fail, and the source as its oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from keras import layers
from onnx.numpy_helper import from_array, to_array

from edgernn.errors import ConversionError, ToleranceError, UsageError
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.oracle import KerasOracle
from edgernn.quantize.parity import (
    NOTHING_DB,
    PREFIXES,
    Distance,
    accuracy,
    check,
    check_accuracy,
    expected_outputs,
    measure,
)
from edgernn.quantize.schemes import SCHEMES, Tolerance
from edgernn.quantize.simplify import simplify
from edgernn.quantize.stepping import Invoke, invoke_onnx
from edgernn.quantize.streaming import StepGraph, stream
from edgernn.spec import StreamSpec, TensorSpec
from tests.quantize.networks import LAYERS, Array, chain, frames, keras_outputs, randomized, streams_for

SPEC = StreamSpec(
    inputs=(TensorSpec("x", (1, 1, 2)),),
    outputs=(TensorSpec("y", (1, 1, 2)),),
    states=(),
    output_delays=(0,),
    output_kinds=("frames",),
)
TRUTH = np.array([[3.0, 1.0], [-1.0, 2.0], [0.0, -4.0]], np.float32)


def plus(error: Array) -> Invoke:
    """Return a step that gives its input, wrong by `error` (one row each step)."""
    rows = iter(error)
    return lambda inputs: {"y": inputs["x"] + next(rows)}


def distance(error: Any, truth: Any = TRUTH) -> Distance:
    expected = [(np.arange(len(truth)), truth[:, None])]
    (item,) = measure(expected, plus(np.asarray(error, np.float32)), SPEC, [truth])
    return item


def test_distances_are_those_worked_out_by_hand() -> None:
    item = distance(np.array([[0.0, 0.5], [0.0, -2.0], [0.0, 0.5]]))
    assert item.name == "y"
    assert item.max_abs == 2.0
    assert item.mean_abs == pytest.approx(0.5)
    # what varies in the source, by element; the error: (0.25 + 4 + 0.25) / 6
    varies = np.mean([np.mean((column - np.mean(column)) ** 2) for column in TRUTH.T.astype(float)])
    assert item.snr_db == pytest.approx(10 * np.log10(varies / (4.5 / 6)))
    assert item.argmax_agreement == 1.0
    assert item.scale == pytest.approx(float(TRUTH.std()))
    assert (item.compared, item.worst_step) == (3, 1)


def test_agreement_counts_frames_whose_largest_element_moved() -> None:
    assert distance(np.array([[0.0, 0.0], [0.0, -3.5], [0.0, 0.0]])).argmax_agreement == pytest.approx(2 / 3)
    assert distance(np.array([[0.0, 1.0], [-1.0, 1.0], [0.0, 3.0]])).argmax_agreement == 1.0


def test_an_offset_hides_no_error() -> None:
    error = np.array([[0.0, 0.5], [0.0, -2.0], [0.0, 0.5]])
    assert distance(error, TRUTH + 10).snr_db == pytest.approx(distance(error).snr_db, abs=1e-3)


def test_what_hardly_varies_may_be_wrong_by_a_thousandth_of_its_power() -> None:
    steady = np.full((3, 2), 100.0, np.float32)
    assert distance(np.ones((3, 2)), steady).snr_db == pytest.approx(10.0)


def test_scale_is_never_below_one() -> None:
    assert distance(np.zeros((3, 2)), TRUTH / 100).scale == 1.0


def test_no_error_at_all_and_nothing_but_error() -> None:
    assert distance(np.zeros((3, 2))).snr_db == NOTHING_DB
    assert distance(np.ones((3, 2)), np.zeros((3, 2), np.float32)).snr_db == -NOTHING_DB


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_never_pass(bad: float) -> None:
    item = distance(np.array([[0.0, 0.0], [0.0, 0.0], [bad, 0.0]]))
    assert item.misses(Tolerance(1e30, -1e30)) is not None
    assert item.worst_step == 2
    with pytest.raises(ToleranceError, match=r"step\.onnx \(int8\).*output y.*worst at step 2"):
        check([item], Tolerance(1e30, -1e30), "step.onnx (int8)")


def test_an_offset_does_not_hide_an_error() -> None:
    random = np.random.default_rng(0)
    truth = (30 + 0.5 * random.standard_normal((200, 2))).astype(np.float32)
    item = distance(30 - truth, truth)  # the file gives a constant
    assert item.snr_db < 6
    assert item.misses(SCHEMES["int8"].tolerance) is not None


def test_tolerances_are_bounds() -> None:
    item = distance(np.array([[0.0, 0.5], [0.0, -2.0], [0.0, 0.5]]))
    relative = 2.0 / float(TRUTH.std())
    assert item.misses(Tolerance(relative * 1.001, 8.0)) is None
    assert "error" in str(item.misses(Tolerance(relative * 0.999, 8.0)))
    assert "SNR 8.1 dB (at least 9 dB are asked for)" in str(item.misses(Tolerance(relative * 1.001, 9.0)))


def test_a_failure_names_every_output_that_is_too_far_and_where() -> None:
    good, bad = distance(np.zeros((3, 2))), distance(np.array([[0.0, 0.5], [0.0, -2.0], [0.0, 0.5]]))
    with pytest.raises(ToleranceError) as failure:
        check(
            [replace(good, name="fine"), replace(bad, name="words"), replace(bad, name="beeps")], Tolerance(0.1, 0), "f"
        )
    message = str(failure.value)
    assert "fine" not in message
    assert "output words: error" in message
    assert "output beeps: error" in message
    assert "worst at step 1" in message
    assert "--tolerance" in message
    assert "\n" not in message


# a real model


def lowered(model: Any) -> tuple[StepGraph, StreamSpec, onnx.ModelProto]:
    step = stream(from_keras(model))
    return step, step.spec(), ir.to_proto(simplify(step.model))


def expected_of(step: StepGraph, model: Any, streams: list[Array]) -> list[tuple[Any, Array]]:
    """Do what `expected_outputs` does for outputs of frames, with Keras called plainly."""
    outputs = keras_outputs(model, [array[None] for array in streams])
    return [(np.arange(len(item[0])), item[0][:, None]) for item in outputs]


@pytest.mark.parametrize("which", ["R", "W", "B", "kernel"])
def test_one_wrong_weight_is_caught(which: str) -> None:
    model = randomized(chain(layers.LSTM(8, return_sequences=True), layers.Dense(3)))
    step, spec, proto = lowered(model)
    streams = streams_for(model, 100)
    expected = expected_of(step, model, streams)
    check(measure(expected, invoke_onnx(proto.SerializeToString()), spec, streams), SCHEMES["float32"].tolerance, "f")
    weights = next(item for item in proto.graph.initializer if item.name.rpartition("/")[2] == which)
    array = to_array(weights).copy()
    array.flat[3] += 0.02
    weights.CopyFrom(from_array(array, weights.name))
    with pytest.raises(ToleranceError):
        check(
            measure(expected, invoke_onnx(proto.SerializeToString()), spec, streams), SCHEMES["float32"].tolerance, "f"
        )


def test_a_forgotten_state_is_caught_under_every_scheme() -> None:
    model = randomized(chain(layers.GRU(8, return_sequences=True), layers.Dense(3)))
    step, spec, proto = lowered(model)
    streams = streams_for(model, 200)
    invoke = invoke_onnx(proto.SerializeToString())
    state = spec.states[0].input
    forgetful = measure(
        expected_of(step, model, streams), lambda fed: invoke({**fed, state: np.zeros_like(fed[state])}), spec, streams
    )
    for scheme in SCHEMES.values():
        with pytest.raises(ToleranceError):
            check(forgetful, scheme.tolerance, scheme.name)


def test_summaries_are_compared_over_many_beginnings() -> None:
    first = frames()
    value = layers.Conv1D(4, 3, strides=2)(first)
    model = randomized(keras.Model(first, [layers.GlobalAveragePooling1D()(value), value]))
    step, spec, proto = lowered(model)
    streams = streams_for(model, 120)
    expected = expected_outputs(KerasOracle(model), step, streams)
    numbers, values = expected[0]
    assert len(numbers) == PREFIXES
    assert numbers[-1] == 59
    for number, value_there in zip(numbers[[0, 7, -1]], values[[0, 7, -1]], strict=True):
        begun = keras_outputs(model, [streams[0][None, : 2 * (number + 1)]])
        np.testing.assert_allclose(value_there[0], begun[0][0], atol=1e-5)
    distances = measure(expected, invoke_onnx(proto.SerializeToString()), spec, streams)
    assert [item.compared for item in distances] == [PREFIXES, 59]
    check(distances, SCHEMES["float32"].tolerance, "f")


def test_a_warm_up_beyond_the_steps_is_said_so() -> None:
    model = chain(layers.AveragePooling1D(60, strides=1), features=2)
    with pytest.raises(UsageError, match=r"first 59 steps.*--steps"):
        expected_outputs(KerasOracle(model), stream(from_keras(model)), streams_for(model, 50))


def test_accuracy_is_counted_at_the_last_frame() -> None:
    model = chain(layers.Activation("linear"), features=2)
    clips = np.zeros((4, 5, 2), np.float32)
    clips[:, -1] = [[1, 0], [0, 1], [1, 0], [0, 1]]
    clips[:, :-1, 1] = 9.0  # what came before does not count
    found = accuracy(KerasOracle(model), lambda fed: {"y": fed["x"][..., ::-1]}, SPEC, (clips, np.array([0, 1, 1, 1])))
    assert found == {"source": 0.75, "artifact": 0.25, "clips": 4}


@pytest.mark.parametrize(
    ("artifact", "allowed", "fails"),
    [(0.90, 0.01, False), (0.899, 0.01, False), (0.889, 0.01, True), (0.889, 0.02, False), (0.95, 0.0, False)],
)
def test_accuracy_may_fall_by_what_is_allowed(artifact: float, allowed: float, fails: bool) -> None:
    scores, tolerance = {"source": 0.9, "artifact": artifact, "clips": 1000}, Tolerance(1.0, 1.0, allowed)
    if not fails:
        check_accuracy(scores, tolerance, "step.onnx")
        return
    with pytest.raises(ToleranceError, match=r"step\.onnx: accuracy.*88\.90%.*90\.00%.*1\.0% may be lost"):
        check_accuracy(scores, tolerance, "step.onnx")


def test_of_few_clips_one_may_always_be_lost() -> None:
    strict = Tolerance(1.0, 1.0, 0.0)
    check_accuracy({"source": 0.9, "artifact": 0.8, "clips": 10}, strict, "step.onnx")
    with pytest.raises(ToleranceError):
        check_accuracy({"source": 0.9, "artifact": 0.7, "clips": 10}, strict, "step.onnx")


# the oracle


@pytest.mark.parametrize("build", ["stateful", "fixed_length"])
def test_the_source_is_run_from_a_fresh_state_at_any_length(build: str) -> None:
    model = randomized(LAYERS[build]())
    oracle = KerasOracle(model)
    (streams,) = streams_for(model, 25)
    first, again = oracle([streams])[0], oracle([streams])[0]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, keras_outputs(model, [streams[None]])[0][0], atol=1e-5)
    shorter = oracle([streams[:12]])[0]
    assert np.isfinite(shorter).all()
    if build == "stateful":
        np.testing.assert_allclose(shorter, first[:12], atol=1e-5)


def test_inputs_and_outputs_may_have_names() -> None:
    first, second = frames(3, "zebra"), frames(2, "ant")
    outputs = {"sum": layers.Dense(2)(first), "all": layers.Concatenate()([first, second])}
    model = keras.Model({"zebra": first, "ant": second}, outputs)
    assert [item.name for item in model.inputs] == ["ant", "zebra"]
    ant, zebra = streams_for(model, 5)
    found, _ = KerasOracle(model)([ant, zebra])
    np.testing.assert_array_equal(found, np.concatenate([zebra, ant], axis=-1))


def test_a_source_that_cannot_be_run_is_a_conversion_error() -> None:
    model = chain(layers.Conv1D(2, 5))
    with pytest.raises(ConversionError, match="cannot be run on 3 frames"):
        KerasOracle(model)([np.zeros((3, 6), np.float32)])
