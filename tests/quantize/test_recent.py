"""Pooling over the last frames, and with the shares of a Softmax over frames: against the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from edgernn.errors import UnsupportedLayerError, UsageError
from edgernn.quantize.bounds import EXACT, Bounds, Chunked
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.graph import Builder
from edgernn.quantize.oracle import KerasOracle
from edgernn.quantize.stepping import invoke_onnx
from edgernn.quantize.streaming import stream
from tests.quantize.networks import chain, randomized, streams_for
from tests.quantize.test_bounded_files import attention_pooled
from tests.quantize.test_streaming import RANDOM, stepped

POOLS: dict[str, Callable[..., Any]] = {"GlobalAveragePooling1D": np.mean, "GlobalMaxPooling1D": np.max}


@settings(RANDOM, max_examples=12)
@given(st.sampled_from(sorted(POOLS)), st.integers(1, 12), st.integers(1, 5), st.booleans())
def test_pooling_sees_the_last_frames(kind: str, window: int, at_once: int, late: bool) -> None:
    """Fewer where fewer have come; a convolution before it gives nothing in its first frames."""
    before = [layers.Conv1D(4, 3)] if late else [layers.Dense(4)]
    model = randomized(chain(*before, getattr(layers, kind)(), layers.Dense(3)))
    graph = stream(from_keras(model), at_once, bounds=Bounds(pooling_window=window))
    (x,) = streams_for(model, length=30)
    (found,) = stepped(graph, [x])
    seen = np.asarray(model.layers[1](x[None]))[0]
    first = graph.spec().output_delays[0]
    assert len(found) > first
    for step in range(first, len(found)):
        newest = (step + 1) * at_once - graph.timings[0].delay
        pooled = POOLS[kind](seen[max(0, newest - window) : newest], axis=0)
        np.testing.assert_allclose(found[step], np.asarray(model.layers[-1](pooled[None]))[0], rtol=1e-4, atol=1e-5)


def test_a_mean_over_many_frames_does_not_drift() -> None:
    """Nothing is added and taken away again: after an outburst has left the window, nothing of it is left."""
    model = chain(layers.GlobalAveragePooling1D())
    graph = stream(from_keras(model), bounds=Bounds(pooling_window=8))
    x = np.random.default_rng(0).standard_normal((60, 6)).astype(np.float32)
    x[20:24] *= 1e7
    np.testing.assert_allclose(stepped(graph, [x])[0][-1], x[-8:].mean(axis=0), rtol=1e-5, atol=1e-6)


Contract = Callable[[Builder, ir.Value, ir.Value], ir.Value]


def attending(heads: int, contract: Contract) -> ir.Model:
    """A score for each frame and head, their Softmax over time, and what `contract` makes of it and the frames."""
    builder, random = Builder("pooling"), np.random.default_rng(0)
    x = builder.input("x", ["batch", "time", 6])
    scores = builder.op("MatMul", x, builder.constant(random.normal(0, 2, (6, heads)), "scores"))
    shares = builder.op("Softmax", scores, axis=1)
    values = builder.op("MatMul", x, builder.constant(random.normal(0, 1, (6, 4)), "values"))
    builder.output(contract(builder, shares, values), "y")
    return builder.finish()


def _product_and_sum(builder: Builder, shares: ir.Value, values: ir.Value) -> ir.Value:
    return builder.op("ReduceSum", builder.op("Mul", shares, values), builder.constant([1]), keepdims=0)


def _kept(builder: Builder, shares: ir.Value, values: ir.Value) -> ir.Value:
    return builder.op("ReduceSum", builder.op("Mul", values, shares), builder.constant([-2]), keepdims=1)


def _matrix(builder: Builder, shares: ir.Value, values: ir.Value) -> ir.Value:
    return builder.op("MatMul", builder.op("Transpose", shares, perm=[0, 2, 1]), values)


def _moved(builder: Builder, shares: ir.Value, values: ir.Value) -> ir.Value:
    flat = builder.op("Squeeze", shares, builder.constant([2]))
    return builder.op("MatMul", builder.op("Unsqueeze", flat, builder.constant([1])), values)


CONTRACTS: dict[str, tuple[int, Contract]] = {
    "product and sum": (1, _product_and_sum),
    "by feature": (4, _product_and_sum),
    "time kept": (1, _kept),
    "heads": (3, _matrix),
    "moved about": (1, _moved),
}


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("window", [None, 7])
def test_attention_pooling_is_the_softmax_over_frames(name: str, at_once: int, window: int | None) -> None:
    """Over all frames so far it is what the graph gives for them; with a window, what it gives for the last ones."""
    graph = attending(*CONTRACTS[name])
    run = invoke_onnx(ir.to_proto(graph).SerializeToString())
    x = np.random.default_rng(1).standard_normal((24, 6)).astype(np.float32)
    step = stream(graph, at_once, bounds=Bounds(pooling_window=window))
    assert bool(step.approximations) == (window is not None)
    found = stepped(step, [x])[0]
    for number in range(len(found)):
        seen = x[: (number + 1) * at_once][-(window or len(x)) :]
        truth = run({"x": seen[None]})["y"]
        np.testing.assert_allclose(found[number], truth.reshape(found[number].shape), rtol=1e-4, atol=1e-5)


def test_keras_pools_with_attention() -> None:
    """Shares by a Softmax layer over time, and a sum: over all frames so far it is Keras' own, for every beginning."""
    model = attention_pooled()
    (x,) = streams_for(model, 20)
    found = stepped(stream(from_keras(model)), [x])[0]
    oracle = KerasOracle(model)
    for length in (1, 7, 20):
        np.testing.assert_allclose(found[length - 1], oracle([x[:length]])[0], atol=1e-5)


def test_scores_of_any_size_are_pooled() -> None:
    """The largest score so far is taken off before Exp: neither 1e4 nor -1e4 leaves its range."""
    graph = attending(1, _product_and_sum)
    x = np.random.default_rng(2).standard_normal((40, 6)).astype(np.float32)
    x[:10] *= 1e-2
    x[10:20] *= 3e3
    x[20:] *= 1e2
    truth = invoke_onnx(ir.to_proto(graph).SerializeToString())({"x": x[None]})["y"]
    found = stepped(stream(graph), [x])[0]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[-1], truth[0], rtol=1e-4)


def test_streams_of_a_batch_are_pooled_by_themselves() -> None:
    graph = attending(3, _matrix)
    lanes = [np.random.default_rng(seed).standard_normal((12, 6)).astype(np.float32) for seed in (1, 2)]
    for bounds in (EXACT, Bounds(pooling_window=4)):
        both = stepped(stream(graph, batch=2, bounds=bounds), [np.stack(lanes)])[0].reshape(12, 2, 3, 4)
        for lane, x in enumerate(lanes):
            alone = stepped(stream(graph, bounds=bounds), [x])[0]
            np.testing.assert_allclose(both[:, lane], alone, atol=1e-6)


def _shares_leave(builder: Builder, shares: ir.Value, values: ir.Value) -> ir.Value:
    return shares


def _shares_added(builder: Builder, shares: ir.Value, values: ir.Value) -> ir.Value:
    return builder.op("Add", shares, values)


@pytest.mark.parametrize(
    ("contract", "reason"),
    [(_shares_leave, "the output y has a share for each frame"), (_shares_added, "Softmax over all frames.*; sum up")],
)
def test_shares_of_frames_alone_are_refused(contract: Contract, reason: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=reason):
        stream(attending(1, contract))


def test_a_window_without_a_pool_is_refused() -> None:
    with pytest.raises(UsageError, match="--pooling window=5: the model has no pooling over all frames"):
        stream(from_keras(chain(layers.GRU(3))), bounds=Bounds(pooling_window=5))


def test_a_pool_behind_a_look_ahead_says_what_it_leaves_out() -> None:
    both = layers.Bidirectional(layers.GRU(3, return_sequences=True))
    model = randomized(chain(both, layers.GlobalAveragePooling1D()))
    with pytest.raises(UnsupportedLayerError, match=r"last 4 frames.*--approximate edges"):
        stream(from_keras(model), bounds=Bounds(Chunked(2, 4)))
    graph = stream(from_keras(model), bounds=Bounds(Chunked(2, 4), edges=True))
    assert len(graph.approximations) == 2
