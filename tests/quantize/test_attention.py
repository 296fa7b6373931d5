"""Attention over the frames around each frame: against Keras, asked about those very frames."""

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
from edgernn.quantize.bounds import EXACT, Bounds, Window
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.graph import Builder
from edgernn.quantize.stepping import invoke_onnx
from edgernn.quantize.streaming import StepGraph, stream
from tests.quantize.networks import Array, frames, keras_outputs, randomized, streams_for
from tests.quantize.test_layers import evaluate
from tests.quantize.test_streaming import RANDOM, assert_frames, stepped

LAYERS: dict[str, Callable[[int], Any]] = {
    "heads": lambda size: layers.MultiHeadAttention(2, size),
    "heads, values apart": lambda size: layers.MultiHeadAttention(3, 2, value_dim=size, output_shape=5),
    "heads, gated": lambda size: layers.MultiHeadAttention(1, size, use_gate=True, use_bias=False, dropout=0.1),
    "groups": lambda size: layers.GroupQueryAttention(size, 4, 2),
    "groups of one": lambda size: layers.GroupQueryAttention(size, 2, 2, use_gate=True),
    "dot": lambda size: layers.Attention(),
    "dot, scaled": lambda size: layers.Attention(use_scale=True),
    "sum": lambda size: layers.Attention(score_mode="concat", use_scale=True),
    "additive": lambda size: layers.AdditiveAttention(),
    "additive, no scale": lambda size: layers.AdditiveAttention(use_scale=False),
}


def on(layer: Any, query: Any, value: Any, **options: Any) -> Any:
    """Call an attention layer as its kind is called."""
    listed = type(layer).__name__ in ("Attention", "AdditiveAttention")
    return layer([query, value], **options) if listed else layer(query, value, **options)


def attending(layer: Any, **options: Any) -> Any:
    first = frames()
    before = layers.Dense(4, activation="tanh")(first)
    return randomized(keras.Model(first, on(layer, before, before, **options)))


def seen_alone(layer: Any, x: Array, past: int, ahead: int) -> Array:
    """Ask the layer about each frame by itself, with the frames that it sees and no mask."""
    windows = [x[max(0, now - past) : now + ahead + 1] for now in range(len(x) - ahead)]
    windows = [np.repeat(window, 2, axis=0) for window in windows]  # the same shares; Keras warns of a single frame
    return np.stack([np.asarray(on(layer, x[None, [now]], window[None]))[0, 0] for now, window in enumerate(windows)])


def assert_attends(model: Any, graph: StepGraph, past: int, ahead: int, length: int = 12) -> None:
    x = streams_for(model, length)
    before = np.asarray(model.layers[1](x[0][None]))[0]
    (found,) = stepped(graph, x)
    assert graph.spec().output_delays == (ahead,)
    assert_frames(found.reshape(-1, found.shape[-1]), seen_alone(model.layers[-1], before, past, ahead), ahead)


DRAWN = (
    st.sampled_from(sorted(LAYERS)),
    st.integers(1, 3),
    st.integers(1, 14),
    st.integers(0, 3),
    st.sampled_from([1, 2, 3]),
)


@settings(RANDOM, max_examples=12)
@given(*DRAWN)
def test_a_frame_sees_the_frames_around_it(kind: str, size: int, window: int, ahead: int, at_once: int) -> None:
    model = attending(LAYERS[kind](size))
    graph = stream(from_keras(model), at_once, bounds=Bounds(attention=Window(window, ahead)))
    assert_attends(model, graph, window - 1, ahead)


@settings(RANDOM, max_examples=6)
@given(*DRAWN)
def test_a_causal_mask_hides_what_is_ahead(kind: str, size: int, window: int, ahead: int, at_once: int) -> None:
    """A look-ahead that the model does not have is not made up."""
    model = attending(LAYERS[kind](size), use_causal_mask=True)
    graph = stream(from_keras(model), at_once, bounds=Bounds(attention=Window(window, ahead)))
    assert_attends(model, graph, window - 1, 0)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("causal", [True, False])
def test_the_sequence_graph_is_the_layer(kind: str, causal: bool) -> None:
    model = attending(LAYERS[kind](3), use_causal_mask=causal)
    (x,) = streams_for(model, length=11)
    (truth,) = keras_outputs(model, [x[None]])
    np.testing.assert_allclose(evaluate(from_keras(model), [x[None]])[0], truth, atol=1e-5)


@pytest.mark.parametrize(("causal", "ahead"), [(True, 0), (False, 3)])
@pytest.mark.parametrize("at_once", [1, 5])
def test_a_sliding_window_is_exact(causal: bool, ahead: int, at_once: int) -> None:
    """Keras' window is symmetric: without a causal mask, a frame sees as many frames ahead, and waits for them."""
    model = attending(layers.MultiHeadAttention(2, 3, sliding_window=4), use_causal_mask=causal)
    graph = stream(from_keras(model), at_once)
    assert graph.approximations == ()
    (x,) = streams_for(model, length=30)
    found = stepped(graph, [x])[0]
    assert graph.spec().output_delays == (ahead,)
    assert_frames(found.reshape(30, -1), keras_outputs(model, [x[None]])[0][0], ahead)


def encoder(window: int | None = None, blocks: int = 2, width: int = 8) -> Any:
    """A causal Transformer encoder, normalized before each part."""
    first = frames()
    value = layers.Dense(width)(first)
    for _ in range(blocks):
        normal = layers.LayerNormalization()(value)
        seen = layers.MultiHeadAttention(2, 4, sliding_window=window)(normal, normal, use_causal_mask=True)
        value = layers.Add()([value, layers.Dropout(0.1)(seen)])
        inner = layers.Dense(12, activation="gelu")(layers.LayerNormalization()(value))
        value = layers.Add()([value, layers.Dense(width)(inner)])
    return randomized(keras.Model(first, layers.Dense(3)(value)))


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_bounded_encoder_is_the_one_with_a_sliding_window(at_once: int) -> None:
    """Every layer reaches back by itself; Keras' own window is the same bound, from the first frame on."""
    whole, windowed = encoder(), encoder(window=5)
    (x,) = streams_for(whole, length=24)
    graph = stream(from_keras(whole), at_once, bounds=Bounds(attention=Window(5)))
    assert len(graph.approximations) == 2
    found = stepped(graph, [x])[0].reshape(24, -1)
    np.testing.assert_allclose(found, keras_outputs(windowed, [x[None]])[0][0], atol=1e-5)
    assert np.abs(found - keras_outputs(whole, [x[None]])[0][0])[:5].max() < 1e-5, "it sees all of the first frames"


def test_what_waits_before_and_behind_it_meets() -> None:
    """A convolution gives nothing for two frames: until then the places of keys stay empty. The skip waits ahead."""
    first = frames()
    before = layers.Conv1D(4, 3)(first)
    attention = layers.MultiHeadAttention(2, 3, sliding_window=3)
    joined = layers.Add()([attention(before, before), before])
    model = randomized(keras.Model(first, layers.GRU(3, return_sequences=True)(joined)))
    graph = stream(from_keras(model))
    (x,) = streams_for(model, length=30)
    assert graph.spec().output_delays == (4,)
    truth = keras_outputs(model, [x[None]])[0][0]
    assert_frames(stepped(graph, [x])[0].reshape(30, -1)[:-2], truth[:24], 4)


def test_streams_of_a_batch_have_places_of_their_own() -> None:
    model, bounds = encoder(), Bounds(attention=Window(4))
    lanes = [streams_for(model, 10, seed)[0] for seed in (1, 2)]
    both = stepped(stream(from_keras(model), batch=2, bounds=bounds), [np.stack(lanes)])[0].reshape(10, 2, -1)
    for lane, x in enumerate(lanes):
        alone = stepped(stream(from_keras(model), bounds=bounds), [x])[0].reshape(10, -1)
        np.testing.assert_allclose(both[:, lane], alone, atol=1e-6)


# masks as exporters write them

Mask = Callable[[Builder, ir.Value], ir.Value]


def masked(mask: Mask) -> ir.Model:
    """Attention of one head over its input, with what `mask` makes of the scores."""
    builder = Builder("exported")
    x = builder.input("x", ["batch", "time", 4])
    scores = builder.op("MatMul", x, builder.op("Transpose", x, perm=[0, 2, 1]))
    shares = builder.op("Softmax", mask(builder, scores), axis=-1)
    builder.output(builder.op("MatMul", shares, x), "y")
    return builder.finish()


def _distance(builder: Builder, scores: ir.Value) -> ir.Value:
    """Row minus column, from Shape and Range."""
    length = builder.op("Gather", builder.op("Shape", scores), builder.constant(np.array(-1)), axis=0)
    places = builder.op("Range", builder.constant(np.array(0)), length, builder.constant(np.array(1)))
    rows = builder.op("Unsqueeze", places, builder.constant([1]))
    return builder.op("Sub", rows, builder.op("Unsqueeze", places, builder.constant([0])))


def _where_less(builder: Builder, scores: ir.Value) -> ir.Value:
    distance = _distance(builder, scores)
    near = builder.op("Less", builder.op("Abs", distance), builder.constant(np.array(3)))
    return builder.op("Where", near, scores, builder.constant(-3e38))


def _bias_by_distance(builder: Builder, scores: ir.Value) -> ir.Value:
    """Press et al. 2022 (arXiv:2108.12409), cut off after four frames."""
    distance = builder.op("Cast", _distance(builder, scores), to=int(ir.DataType.FLOAT))
    sloped = builder.op("Sub", scores, builder.op("Mul", distance, builder.constant(0.5)))
    ahead = builder.op("Less", distance, builder.constant(0.0))
    far = builder.op("Greater", distance, builder.constant(4.0))
    return builder.op("Where", builder.op("Or", ahead, far), builder.constant(-np.inf), sloped)


def _every_second(builder: Builder, scores: ir.Value) -> ir.Value:
    """Inside the window, too, some frames are not seen; rows that see nothing at all are what IsNaN asks for."""
    distance = _distance(builder, scores)
    odd = builder.op("Cast", builder.op("Mod", distance, builder.constant(np.array(2))), to=int(ir.DataType.BOOL))
    outside = builder.op("Or", builder.op("Less", distance, builder.constant(np.array(0))), odd)
    far = builder.op("Greater", distance, builder.constant(np.array(6)))
    return builder.op("Where", builder.op("Or", outside, far), builder.constant(-np.inf), scores)


def _stored(builder: Builder, scores: ir.Value) -> ir.Value:
    """A matrix in the file, for sequences of one length."""
    band = np.tril(np.triu(np.ones((20, 20)), -2))
    return builder.op("Add", scores, builder.constant(np.where(band, 0.0, -1e9)[None], "mask"))


MASKS: dict[str, tuple[Mask, int]] = {
    "where less": (_where_less, 2),
    "bias by distance": (_bias_by_distance, 0),
    "every second": (_every_second, 0),
    "stored": (_stored, 0),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("at_once", [1, 4])
def test_a_mask_is_read_however_it_was_written(name: str, at_once: int) -> None:
    mask, ahead = MASKS[name]
    graph = masked(mask)
    x = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    truth = invoke_onnx(ir.to_proto(graph).SerializeToString())({"x": x[None]})["y"][0]
    step = stream(graph, at_once)
    assert (step.spec().output_delays, step.approximations) == ((ahead,), ())
    assert_frames(stepped(step, [x])[0].reshape(20, -1), truth, ahead)


def _by_place(builder: Builder, scores: ir.Value) -> ir.Value:
    """Frames of one block of three see one another: this depends on where the block begins."""
    length = builder.op("Gather", builder.op("Shape", scores), builder.constant(np.array(-1)), axis=0)
    places = builder.op("Range", builder.constant(np.array(0)), length, builder.constant(np.array(1)))
    block = builder.op("Div", places, builder.constant(np.array(3)))
    same = builder.op(
        "Equal",
        builder.op("Unsqueeze", block, builder.constant([1])),
        builder.op("Unsqueeze", block, builder.constant([0])),
    )
    return builder.op("Where", same, scores, builder.constant(-np.inf))


def _absolute_places() -> ir.Model:
    builder = Builder("exported")
    x = builder.input("x", ["batch", "time", 4])
    length = builder.op("Slice", builder.op("Shape", x), builder.constant([1]), builder.constant([2]))
    table = builder.op(
        "Slice", builder.constant(np.ones((99, 4)), "table"), builder.constant([0]), length, builder.constant([0])
    )
    builder.output(builder.op("Add", x, table), "y")
    return builder.finish()


def _scores_leave() -> ir.Model:
    builder = Builder("exported")
    x = builder.input("x", ["batch", "time", 4])
    builder.output(builder.op("MatMul", x, builder.op("Transpose", x, perm=[0, 2, 1])), "y")
    return builder.finish()


def _keras(layer: Any, **options: Any) -> Callable[[], ir.Model]:
    return lambda: from_keras(attending(layer, **options))


REFUSED: dict[str, tuple[Callable[[], ir.Model], str]] = {
    "the past is endless": (
        _keras(layers.MultiHeadAttention(1, 2, name="bad"), use_causal_mask=True),
        r"bad \(MatMul\).*attends to all frames before it; .*--attention-window N",
    ),
    "so is the future": (_keras(layers.Attention(name="bad")), "bad.*all frames before it and after it; "),
    "a mask by place": (lambda: masked(_by_place), "depends on where in the sequence a frame is.*; mask by distance"),
    "absolute places": (_absolute_places, "how long the sequence is, or where in it a frame is; .*absolute positions"),
    "scores leave": (_scores_leave, "the output y has scores of every frame with every other one"),
    "scores are asked for": (
        lambda: from_keras(keras.Model(*_with_scores())), "'bad'.*called with return_attention_scores; call it without"
    ),
}  # fmt: skip


def _with_scores() -> tuple[Any, Any]:
    first = frames()
    return first, layers.MultiHeadAttention(1, 2, name="bad")(first, first, return_attention_scores=True)[0]


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_window_is_refused(name: str) -> None:
    build, reason = REFUSED[name]
    with pytest.raises(UnsupportedLayerError, match=reason):
        stream(build(), bounds=EXACT)


def test_a_window_that_changes_nothing_is_refused() -> None:
    model = attending(layers.MultiHeadAttention(2, 3, sliding_window=4), use_causal_mask=True)
    with pytest.raises(UsageError, match="--attention-window 4: the model has no attention that reaches further"):
        stream(from_keras(model), bounds=Bounds(attention=Window(4)))
    assert stream(from_keras(model), bounds=Bounds(attention=Window(3))).approximations
