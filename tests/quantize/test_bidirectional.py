"""Bidirectional layers in blocks with a look-ahead: against Keras, run on those very blocks by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from edgernn.errors import UnsupportedLayerError, UsageError
from edgernn.quantize.bounds import Bounds, Chunked
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.graph import Builder
from edgernn.quantize.stepping import invoke_onnx
from edgernn.quantize.streaming import stream
from tests.quantize.networks import Array, chain, frames, keras_outputs, randomized, streams_for
from tests.quantize.test_streaming import RANDOM, assert_frames, stepped

CELLS = {"lstm": layers.LSTM, "gru": layers.GRU, "rnn": layers.SimpleRNN}
MERGES = ("concat", "sum", "mul", "ave")


def blocks(length: int, bound: Chunked) -> list[slice]:
    """Return the blocks of a sequence: they end `lookahead` frames before whole chunks have come."""
    ends = [end for end in range(bound.chunk - bound.lookahead, length + 1, bound.chunk) if end > 0]
    return [slice(max(0, end - bound.chunk), end) for end in ends]


def bounded(layer: Any, x: Array, bound: Chunked) -> Array:
    """Run the two halves of a Bidirectional by themselves, the backward one block by block."""
    forward = np.asarray(layer.forward_layer(x[None]))[0]
    parts = []
    for block in blocks(len(x), bound):
        seen = x[block.start : block.stop + bound.lookahead]
        if len(seen) < block.stop - block.start + bound.lookahead:
            break  # the end of its look-ahead is not there
        parts.append(np.asarray(layer.backward_layer(seen[None]))[0][::-1][: block.stop - block.start])
    backward = np.concatenate(parts)
    left, right = forward[: len(backward)], backward
    merges: dict[str, Callable[[], Array]] = {
        "concat": lambda: np.concatenate([left, right], -1),
        "sum": lambda: left + right,
        "mul": lambda: left * right,
        "ave": lambda: (left + right) / 2,
    }
    return merges[layer.merge_mode]()


def bidirectional(cell: str, units: int, merge: str) -> Any:
    return layers.Bidirectional(CELLS[cell](units, return_sequences=True), merge_mode=merge)


NUMBERS = (st.integers(1, 6), st.integers(0, 9))


DRAWN = (st.sampled_from(sorted(CELLS)), st.integers(1, 4), st.sampled_from(MERGES), st.booleans(), *NUMBERS)


@settings(RANDOM, max_examples=5)
@given(*DRAWN)
def test_each_block_is_what_the_layer_gives_for_it(
    cell: str, units: int, merge: str, taken_apart: bool, chunk: int, lookahead: int
) -> None:
    assert_blocks_are_the_layers(cell, units, merge, taken_apart, chunk, lookahead)


@pytest.mark.slow
@settings(RANDOM, max_examples=20)
@given(*DRAWN)
def test_many_blocks_are_what_the_layer_gives(
    cell: str, units: int, merge: str, taken_apart: bool, chunk: int, lookahead: int
) -> None:
    assert_blocks_are_the_layers(cell, units, merge, taken_apart, chunk, lookahead)


def assert_blocks_are_the_layers(
    cell: str, units: int, merge: str, taken_apart: bool, chunk: int, lookahead: int
) -> None:
    model = randomized(chain(bidirectional(cell, units, merge)))
    bound = Chunked(chunk, lookahead)
    graph = stream(from_keras(model), bounds=Bounds(bidirectional=bound))
    assert graph.frames_per_step == chunk
    assert graph.spec().output_delays == (lookahead,)
    (x,) = streams_for(model, length=max(3 * chunk + 2 * lookahead, 20))
    (found,) = stepped(graph, [x], taken_apart)
    assert_frames(found.reshape(-1, found.shape[-1]), bounded(model.layers[1], x, bound), lookahead)


def test_a_look_ahead_to_the_end_is_the_exact_layer() -> None:
    """Where the block and its look-ahead hold the whole sequence, nothing is approximated."""
    model = randomized(chain(bidirectional("lstm", 3, "concat"), bidirectional("gru", 2, "sum")))
    (x,) = streams_for(model, length=24)
    graph = stream(from_keras(model), bounds=Bounds(bidirectional=Chunked(24, 0)))
    np.testing.assert_allclose(stepped(graph, [x])[0][0], keras_outputs(model, [x[None]])[0][0], atol=1e-5)


def network() -> Any:
    """Strides before it, a skip around it, and a layer with a memory behind: all must meet at the same frame."""
    first = frames()
    before = layers.Conv1D(4, 3, strides=2)(first)
    both = bidirectional("gru", 2, "concat")(before)
    joined = layers.Add()([both, layers.Dense(4, activation="tanh")(before)])
    return keras.Model(first, [layers.LSTM(3, return_sequences=True)(joined), before, both])


@pytest.mark.parametrize(("chunk", "lookahead"), [(1, 0), (3, 0), (2, 3), (4, 8)])
def test_what_is_around_it_stays_exact(chunk: int, lookahead: int) -> None:
    model, bound = randomized(network()), Chunked(chunk, lookahead)
    graph = stream(from_keras(model), bounds=Bounds(bidirectional=bound))
    assert graph.frames_per_step == 2 * chunk
    (x,) = streams_for(model, length=12 * chunk + 40)
    before = keras_outputs(model, [x[None]])[1][0]
    both = bounded(next(layer for layer in model.layers if isinstance(layer, layers.Bidirectional)), before, bound)
    dense, last = (next(item for item in model.layers if type(item).__name__ == name) for name in ("Dense", "LSTM"))
    truth = np.asarray(last(both[None] + np.asarray(dense(before[None, : len(both)]))))[0]
    for output, expected, delay in zip(
        stepped(graph, [x]), (truth, before, both), graph.spec().output_delays, strict=True
    ):
        found = output.reshape(-1, output.shape[-1])
        assert_frames(found[: delay + len(expected)], expected, delay)


def test_several_blocks_and_streams_in_one_step() -> None:
    model, bounds = randomized(chain(bidirectional("lstm", 3, "concat"))), Bounds(bidirectional=Chunked(2, 3))
    one, many = (stream(from_keras(model), size, batch, bounds) for size, batch in ((2, 1), (6, 2)))
    lanes = [streams_for(model, 24, seed)[0] for seed in (1, 2)]
    (found,) = stepped(many, [np.stack(lanes)])
    for lane, x in enumerate(lanes):
        alone = stepped(one, [x])[0].reshape(24, -1)
        both = found.reshape(4, 2, 6, -1)[:, lane].reshape(24, -1)
        np.testing.assert_allclose(both[3:], alone[3:], atol=1e-6)


def test_two_halves_by_hand_are_one_bidirectional_layer() -> None:
    first = frames()
    ahead = layers.LSTM(3, return_sequences=True)
    back = layers.LSTM(3, return_sequences=True, go_backwards=True)
    by_hand = keras.Model(first, layers.Concatenate()([ahead(first), keras.ops.flip(back(first), axis=1)]))
    layer = randomized(chain(bidirectional("lstm", 3, "concat")))
    ahead.set_weights(layer.layers[1].forward_layer.get_weights())
    back.set_weights(layer.layers[1].backward_layer.get_weights())
    (x,) = streams_for(layer)
    graphs = (stream(from_keras(model), bounds=Bounds(Chunked(4, 5))) for model in (layer, by_hand))
    left, right = (stepped(graph, [x])[0] for graph in graphs)
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
def test_an_operator_of_two_directions_is_two(op_type: str) -> None:
    """As PyTorch exports it: `(time, directions, batch, hidden)`; the exact operator is ONNX Runtime's."""
    graph = two_directions(op_type, {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type])
    x = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    truth = invoke_onnx(ir.to_proto(graph).SerializeToString())({"x": x[None]})["y"]
    step = stream(graph, bounds=Bounds(Chunked(12, 0)))
    np.testing.assert_allclose(stepped(step, [x])[0], truth, atol=1e-5)
    np.testing.assert_allclose(stepped(step, [x], taken_apart=True)[0], truth, atol=1e-5)
    late = stream(graph, bounds=Bounds(Chunked(3, 6)))
    assert late.spec().output_delays == (6,)


def two_directions(op_type: str, gates: int, hidden: int = 3) -> ir.Model:
    random, builder = np.random.default_rng(1), Builder("torch")
    w, r, b = (
        random.normal(0, 0.4, (2, *shape))
        for shape in ((gates * hidden, 4), (gates * hidden, hidden), (2 * gates * hidden,))
    )
    x = builder.op("Transpose", builder.input("x", ["batch", "time", 4]), perm=[1, 0, 2])
    options: dict[str, Any] = {"hidden_size": hidden, "direction": "bidirectional"}
    if op_type == "RNN":
        options.update(activations=["Tanh", "LeakyRelu"], activation_alpha=[0.1])
    both, *_ = builder.ops(op_type, [x, *map(builder.constant, (w, r, b))], 2, options)
    left, right = (builder.op("Gather", both, builder.constant(np.array(side)), axis=1) for side in (0, 1))
    joined = builder.op("Concat", left, right, axis=-1)
    builder.output(builder.op("Transpose", joined, perm=[1, 0, 2]), "y")
    return builder.finish()


def test_latency_is_what_an_impulse_says() -> None:
    """With blocks of one frame, a look-ahead of 5 lets an impulse in frame 20 show in frame 15: when 20 has come."""
    model = randomized(chain(bidirectional("lstm", 3, "concat")))
    graph = stream(from_keras(model), bounds=Bounds(Chunked(1, 5)))
    calm = np.zeros((40, 6), np.float32)
    struck = calm.copy()
    struck[20] = 1.0
    quiet, loud = (stepped(graph, [x])[0].reshape(40, -1) for x in (calm, struck))
    changed = np.abs(quiet - loud).max(-1) > 1e-6
    assert int(np.argmax(changed)) == 20 == 15 + graph.spec().latency_frames


def _reverse_state() -> ir.Model:
    builder = Builder("torch")
    x = builder.op("Transpose", builder.input("x", ["batch", "time", 4]), perm=[1, 0, 2])
    weights = [builder.constant(np.ones((2, *shape))) for shape in ((3, 4), (3, 3), (6,))]
    _, state = builder.ops("RNN", [x, *weights], 2, {"hidden_size": 3, "direction": "bidirectional"})
    builder.output(state, "y")
    return builder.finish()


def _turned() -> ir.Model:
    return from_keras(chain(layers.GRU(3, return_sequences=True, go_backwards=True, name="bad")))


ASKED = Bounds(Chunked(2, 2))
REFUSED: dict[str, tuple[Callable[[], ir.Model], Bounds, str]] = {
    "not asked for": (
        lambda: from_keras(chain(bidirectional("lstm", 2, "concat"))), Bounds(),
        r"bidirectional.*backward_lstm.*end of the sequence first; .*--bidirectional chunk=C,lookahead=L",
    ),
    "last only": (
        lambda: from_keras(chain(layers.Bidirectional(layers.LSTM(3), name="bad"))), ASKED,
        "'bad'.*for the first frame, which a stream has left behind; use return_sequences=True",
    ),
    "backwards, last only": (
        lambda: from_keras(chain(layers.LSTM(3, go_backwards=True, name="bad"))), ASKED, "'bad'.*first frame.*; ",
    ),
    "turned around": (_turned, ASKED, "bad.*turns the sequence around"),
    "its final state": (_reverse_state, ASKED, "final state of its backward half.*first frame"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_bounded_form_is_refused(name: str) -> None:
    build, bounds, reason = REFUSED[name]
    with pytest.raises(UnsupportedLayerError, match=reason):
        stream(build(), bounds=bounds)


def test_a_bound_that_nothing_needs_is_refused() -> None:
    with pytest.raises(UsageError, match="--bidirectional chunk=2,lookahead=2: the model has no layer that reads back"):
        stream(from_keras(chain(layers.GRU(3))), bounds=ASKED)
