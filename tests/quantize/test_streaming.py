"""The stream contract: stepping from reset gives what the whole sequence gives, once the delay is taken off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keras import layers

from edgernn.errors import UnsupportedLayerError
from edgernn.quantize.cells import decompose_cells
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.simplify import simplify
from edgernn.quantize.stepping import invoke_onnx, steps
from edgernn.quantize.streaming import StepGraph, stream
from tests.quantize.networks import (
    LAYERS,
    NETWORKS,
    Array,
    Build,
    chain,
    frames,
    keras_outputs,
    randomized,
    streams_for,
)
from tests.quantize.operation_networks import Gated
from tests.quantize.recurrent_networks import Leaky

BEGINNINGS = 3  # of a stream, for which the source is asked where an output is one value for the sequence


def stepped(graph: StepGraph, streams: list[Array], taken_apart: bool = False) -> list[Array]:
    """Return every output of every step, `(steps, frames, features)`."""
    model = simplify(decompose_cells(graph.model) if taken_apart else graph.model)
    taken = list(steps(invoke_onnx(ir.to_proto(model).SerializeToString()), graph.spec(), streams))
    return [np.concatenate([step[item.name] for step in taken]) for item in graph.spec().outputs]


def assert_streams(model: Any, length: int = 40, taken_apart: bool = False, per_step: int = 1) -> StepGraph:
    """Step a model, `per_step` times as many frames a step as it must, and compare each output with Keras."""
    graph = stream(from_keras(model))
    if per_step > 1:
        graph = stream(from_keras(model), graph.frames_per_step * per_step)
    spec = graph.spec()
    streams = streams_for(model, max(length, (spec.warmup_steps + 6) * spec.frames_per_step))
    found = stepped(graph, streams, taken_apart)
    total = len(streams[0]) // spec.frames_per_step * spec.frames_per_step
    whole = keras_outputs(model, [array[None, :total] for array in streams])
    for index, kind in enumerate(spec.output_kinds):
        if kind == "frames":
            assert_frames(found[index].reshape(-1, *found[index].shape[2:]), whole[index][0], spec.output_delays[index])
        else:
            assert_prefixes(model, graph, index, found[index], streams)
    return graph


def assert_frames(found: Array, truth: Array, delay: int) -> None:
    assert 0 < len(found) - delay <= len(truth), "a stream gives no frame that the sequence does not have"
    np.testing.assert_allclose(found[delay:], truth[: len(found) - delay], rtol=1e-4, atol=1e-4)


def assert_prefixes(model: Any, graph: StepGraph, index: int, found: Array, streams: list[Array]) -> None:
    spec, late = graph.spec(), graph.timings[index].extra_input_frames
    first = max(spec.output_delays) + -(-late // spec.frames_per_step)
    assert first < len(found)
    fixed = model.inputs[0].shape[1] is not None
    for number in {len(found) - 1} if fixed else np.unique(np.linspace(first, len(found) - 1, BEGINNINGS).astype(int)):
        length = (number + 1) * spec.frames_per_step - late
        truth = keras_outputs(model, [array[None, :length] for array in streams])[index]
        np.testing.assert_allclose(found[number], truth[0], rtol=1e-4, atol=1e-4, err_msg=f"step {number}")


@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_stepping_is_the_whole_sequence(name: str) -> None:
    assert_streams(randomized({**LAYERS, **NETWORKS}[name]()))


@pytest.mark.parametrize("name", ["mixed", "gru_activations", "gru_softplus", "lstm_activations", "two_rates", "crnn"])
def test_cells_taken_apart_step_the_same(name: str) -> None:
    assert_streams(randomized({**LAYERS, **NETWORKS}[name]()), taken_apart=True)


# random networks

Body = tuple[tuple[str, int, int, int], ...]
"""Layers as (kind, span, stride or dilation, units)."""


def _residual(value: Any, span: int, factor: int, units: int) -> Any:
    """A valid convolution needs its past; the skip is cut to meet it."""
    conv = layers.Conv1D(value.shape[-1], span, dilation_rate=factor)(value)
    return layers.Add()([conv, layers.Cropping1D(((span - 1) * factor, 0))(value)])


def _gate(value: Any, span: int, factor: int, units: int) -> Any:
    return layers.Multiply()([value, layers.Dense(value.shape[-1], activation="sigmoid")(value)])


def _padded_branch(value: Any, span: int, factor: int, units: int) -> Any:
    return layers.Concatenate()([layers.Conv1D(units, span)(layers.ZeroPadding1D((span - 1, 0))(value)), value])


BRANCHES = {"residual": _residual, "gate": _gate, "padded_branch": _padded_branch}
# for each kind: the layer that a span, a stride or dilation, and a number of units make
LAYER_KINDS: dict[str, Callable[[int, int, int], Any]] = {
    "lstm": lambda span, factor, units: layers.LSTM(units, return_sequences=True),
    "gru": lambda span, factor, units: layers.GRU(units, return_sequences=True),
    "gru_before": lambda span, factor, units: layers.GRU(units, return_sequences=True, reset_after=False),
    "rnn": lambda span, factor, units: layers.SimpleRNN(units, return_sequences=True),
    "dense": lambda span, factor, units: layers.Dense(units, activation="tanh"),
    "causal": lambda span, factor, units: layers.Conv1D(units, span, padding="causal", dilation_rate=factor),
    "valid": lambda span, factor, units: layers.Conv1D(units, span),
    "dilated": lambda span, factor, units: layers.Conv1D(units, span, dilation_rate=factor),
    "strided": lambda span, factor, units: layers.Conv1D(units, span, strides=factor, padding="causal"),
    "strided_depthwise": lambda span, factor, units: layers.DepthwiseConv1D(span, strides=factor),
    "strided_max": lambda span, factor, units: layers.MaxPooling1D(span, strides=factor),
    "separable": lambda span, factor, units: layers.SeparableConv1D(units, span, dilation_rate=factor),
    "pad": lambda span, factor, units: layers.ZeroPadding1D((span, 0)),
    "crop": lambda span, factor, units: layers.Cropping1D((span, 0)),
    "batch": lambda span, factor, units: layers.BatchNormalization(),
    "layer": lambda span, factor, units: layers.LayerNormalization(),
    "average": lambda span, factor, units: layers.AveragePooling1D(span, strides=1),
    "rms": lambda span, factor, units: layers.RMSNormalization(),
    "einsum": lambda span, factor, units: layers.EinsumDense("...a,abc->...bc", (units, factor), activation="gelu"),
    "own_layer": lambda span, factor, units: Gated(units),
    "own_cell": lambda span, factor, units: layers.RNN(Leaky(units), return_sequences=True),
    "stacked_cells": lambda span, factor, units: layers.RNN(
        layers.StackedRNNCells([layers.GRUCell(units), layers.LSTMCell(span)]), return_sequences=True
    ),
}


def grown(value: Any, kind: str, *numbers: int) -> Any:
    """Put one drawn layer behind `value`; of several axes of features one is made."""
    value = BRANCHES[kind](value, *numbers) if kind in BRANCHES else LAYER_KINDS[kind](*numbers)(value)
    return value if len(value.shape) == 3 else layers.TimeDistributed(layers.Flatten())(value)


HEADS = {
    "frames": lambda value: value,
    "last": lambda value: value[:, -1],
    "lstm": lambda value: layers.LSTM(3)(value),
    "mean": lambda value: layers.GlobalAveragePooling1D()(value),
    "max": lambda value: layers.GlobalMaxPooling1D()(value),
}


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    """Draw layers."""
    kinds = st.sampled_from(sorted((*LAYER_KINDS, *BRANCHES)))
    layer = st.tuples(kinds, st.integers(1, 4), st.integers(2, 3), st.integers(1, 4))
    return tuple(draw(st.lists(layer, min_size=2, max_size=5).filter(is_quick)))


def is_quick(body: Sequence[tuple[str, int, int, int]]) -> bool:
    return sum(kind.startswith("strided") for kind, *_ in body) <= 2


DRAWN = (bodies(), st.sampled_from(sorted(HEADS)), st.integers(0, 4), st.booleans())
RANDOM = settings(
    deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate)
)


@settings(RANDOM, max_examples=6)
@given(*DRAWN)
def test_random_networks_stream(body: Body, head: str, tap: int, two_inputs: bool) -> None:
    assert_random_network_streams(body, head, tap, two_inputs)


@pytest.mark.slow
@settings(RANDOM, max_examples=100)
@given(*DRAWN)
def test_many_random_networks_stream(body: Body, head: str, tap: int, two_inputs: bool) -> None:
    assert_random_network_streams(body, head, tap, two_inputs)


def assert_random_network_streams(body: Body, head: str, tap: int, two_inputs: bool) -> None:
    first, second = frames(3, "first"), frames(2, "second")
    value = layers.Concatenate()([first, layers.Dense(2)(second)]) if two_inputs else first
    outputs = []
    for place, part in enumerate(body):
        value = grown(value, *part)
        if place == tap:  # a second output, usually at another rate
            outputs.append(value)
    model = randomized(keras.Model([first, second] if two_inputs else first, [HEADS[head](value), *outputs]))
    assert_streams(model, length=30)


# latency


FEATURES = 6
LATENCIES: dict[str, tuple[Build, int]] = {
    "nothing waits": (lambda: chain(layers.Conv1D(4, 5, padding="causal"), layers.GRU(4, return_sequences=True)), 0),
    "a window of 3": (lambda: chain(layers.Conv1D(4, 3)), 2),
    "a dilated window": (lambda: chain(layers.Conv1D(4, 3, dilation_rate=4)), 8),
    "one behind the other": (lambda: chain(layers.Conv1D(4, 3), layers.AveragePooling1D(4, strides=1)), 5),
    "zeros before it": (lambda: chain(layers.ZeroPadding1D((2, 0)), layers.Conv1D(4, 3)), 0),
    "more zeros than window": (lambda: chain(layers.ZeroPadding1D((4, 0)), layers.Conv1D(4, 3)), 0),
    "frames dropped": (lambda: chain(layers.Cropping1D((3, 0))), 3),
    "a skip cut to meet a window": (NETWORKS["branches_valid"], 4),
}


@pytest.mark.parametrize("name", LATENCIES)
def test_latency_is_what_an_impulse_says(name: str) -> None:
    """An impulse in frame 20 first shows in frame m of the sequence, and m + latency of the stream."""
    build, latency = LATENCIES[name]
    model = randomized(build())
    graph = stream(from_keras(model))
    calm = np.zeros((40, FEATURES), np.float32)
    struck = calm.copy()
    struck[20] = 1.0

    def first_change(quiet: Array, loud: Array) -> int:
        return int(np.argwhere(np.abs(loud - quiet).max(-1) > 1e-6)[0][0])

    streamed = first_change(*(stepped(graph, [array])[0].reshape(40, -1) for array in (calm, struck)))
    whole = first_change(*(keras_outputs(model, [array[None]])[0][0] for array in (calm, struck)))
    declared = graph.spec().output_delays[0]
    assert streamed == whole + declared
    assert declared == graph.spec().latency_frames == latency
    assert streamed >= 20, "a stream cannot know the future"


def test_a_stride_makes_one_step_take_several_frames() -> None:
    graph = stream(from_keras(NETWORKS["two_rates"]()))
    assert graph.frames_per_step == 6
    assert [item.shape[1] for item in graph.spec().outputs] == [3, 2, 6]


# states


def test_states_are_named_after_their_layers_and_begin_as_declared() -> None:
    model = chain(
        layers.LSTM(4, return_sequences=True, name="listen"), layers.Conv1D(3, 3, name="look"),
        layers.GlobalMaxPooling1D(name="sum_up"),
    )  # fmt: skip
    states = {state.name: state for state in stream(from_keras(model)).spec().states}
    assert list(states) == ["listen.h", "listen.c", "look.past", "sum_up/running.max"]
    assert (states["listen.h"].input, states["listen.h"].output) == ("listen_h_in", "listen_h_out")
    assert states["listen.c"].shape == (1, 1, 4)
    assert states["look.past"].shape == (1, 2, 4)
    assert states["look.past"].hold_steps == 0
    assert [state.initial for state in states.values()][:3] == [0.0, 0.0, 0.0]
    assert states["sum_up/running.max"].initial == np.finfo(np.float32).min
    assert states["sum_up/running.max"].hold_steps == 2, "it begins when the convolution gives its first frame"


def test_states_behind_a_window_wait_for_its_first_frame() -> None:
    model = randomized(chain(layers.Conv1D(4, 6), layers.LSTM(3, return_sequences=True)))
    graph = stream(from_keras(model))
    held = {state.name: state.hold_steps for state in graph.spec().states}
    assert sorted(held.values()) == [0, 5, 5]
    forgotten = StepGraph(graph.model, graph.states, graph.timings, graph.frames_per_step, graph.inputs)
    for state in forgotten.states:
        state.hold_steps = 0
    truth = keras_outputs(model, [array[None] for array in streams_for(model)])[0][0]
    with pytest.raises(AssertionError):  # what the window gives before it is full does not vanish from the state
        assert_frames(stepped(forgotten, streams_for(model))[0].reshape(40, -1), truth, 5)


def test_every_state_is_used_and_set() -> None:
    for name in ("residual", "two_rates", "strides_between"):
        graph = stream(from_keras(NETWORKS[name]()))
        model = simplify(decompose_cells(graph.model))
        for value in model.graph.inputs:
            assert value.consumers(), f"{name}: nothing reads {value.name}"
        for value in model.graph.outputs:
            assert value.producer() is not None, f"{name}: {value.name} is not computed"


def test_summaries_of_two_ages_are_not_joined() -> None:
    """In a step of two frames, what is behind a window of two is a frame older than what is not."""
    first = frames()
    late = layers.LSTM(3)(layers.Conv1D(4, 2)(first))
    joined = layers.Concatenate(name="bad")([late, layers.GRU(3)(first)])
    model = keras.Model(first, [joined, layers.Conv1D(2, 2, strides=2)(first)])
    with pytest.raises(UnsupportedLayerError, match=r"bad.*summaries.*older"):
        stream(from_keras(model))
    assert_streams(randomized(keras.Model(first, joined)))
