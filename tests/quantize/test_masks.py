"""Means of the frames that a mask leaves, against Keras on padded sequences; what heeds no mask here is refused."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edgernn.errors import ConversionError, UnsupportedLayerError
from edgernn.quantize.bounds import EXACT, Bounds, Chunked
from edgernn.quantize.examples import generate_streams
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.oracle import KerasOracle
from edgernn.quantize.parity import expected_outputs
from edgernn.quantize.streaming import stream
from tests.quantize.networks import Array, Build, chain, randomized
from tests.quantize.test_streaming import stepped


def _words() -> Any:
    first = keras.Input((None,), dtype="int32", name="words")
    value = layers.Embedding(6, 5, mask_zero=True)(first)
    return keras.Model(first, layers.Dense(3)(layers.GlobalAveragePooling1D()(value)))


MEANS: dict[str, Build] = {
    "frames": lambda: chain(layers.Masking(), layers.GlobalAveragePooling1D()),
    "kept": lambda: chain(layers.Masking(), layers.GlobalAveragePooling1D(keepdims=True), layers.Dense(2)),
    "behind a recurrent layer": lambda: chain(
        layers.Masking(), layers.GRU(4, return_sequences=True), layers.GlobalAveragePooling1D(), layers.Dense(3)
    ),
    "words": _words,
}


def padded(model: Any, length: int = 30) -> Array:
    """A stream in which frames are missing here and there, and at the end."""
    random = np.random.default_rng(0)
    counts = random.random(length) < 0.6
    counts[0], counts[-5:] = True, False
    if model.inputs[0].dtype == "int32":
        return np.where(counts, random.integers(1, 6, length), 0).astype(np.int32)
    return random.standard_normal((length, 6)).astype(np.float32) * counts[:, None]


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_mean_leaves_out_what_is_masked(name: str, at_once: int) -> None:
    model = randomized(MEANS[name]())
    x = padded(model)
    (found,) = stepped(stream(from_keras(model), at_once), [x])
    oracle = KerasOracle(model)
    for step in range(len(found)):
        truth = oracle([x[: (step + 1) * at_once]])[0]
        np.testing.assert_allclose(found[step].reshape(truth.shape), truth, atol=1e-5)


@pytest.mark.parametrize("bounds", [EXACT, Bounds(pooling_window=4)])
def test_before_the_first_frame_that_counts_the_mean_is_zero(bounds: Bounds) -> None:
    """For Keras it is zero by zero there; what is masked leaves no trace in the mean that follows."""
    x = np.zeros((12, 6), np.float32)
    x[5:8] = np.random.default_rng(0).standard_normal((3, 6))
    (found,) = stepped(stream(from_keras(MEANS["frames"]()), bounds=bounds), [x])
    assert not found[:5].any()
    np.testing.assert_allclose(found[7].ravel(), x[5:8].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found[8].ravel(), x[5:8].mean(axis=0), atol=1e-6)


def test_streams_of_a_batch_have_masks_of_their_own() -> None:
    model = MEANS["behind a recurrent layer"]()
    lanes = [padded(model), np.roll(padded(model), 1, axis=1)[::-1].copy()]
    lanes[1][0] = 1
    (both,) = stepped(stream(from_keras(model), batch=2), [np.stack(lanes)])
    for lane, x in enumerate(lanes):
        np.testing.assert_allclose(both.reshape(30, 2, 3)[-1, lane], KerasOracle(model)([x])[0], atol=1e-5)


def test_examples_begin_with_a_frame_that_counts() -> None:
    """Those that are made up; of others that do not, the source has no mean to compare with."""
    model = _words()
    step = stream(from_keras(model))
    firsts = {int(words[0]) for seed in range(8) for (words,) in generate_streams(step, 9, seed)}
    assert len(firsts) > 2
    assert 0 not in firsts
    hidden = (np.array([0, 0, 3, 4, 0, 5], np.int32),)
    with pytest.raises(ConversionError, match=r"first 1 frames of the examples: .* begin with a frame that counts"):
        expected_outputs(KerasOracle(model), step, hidden)


def _attending(layer: Any) -> Any:
    first = keras.Input((None, 6))
    masked = layers.Masking()(first)
    heads = isinstance(layer, layers.MultiHeadAttention)
    return keras.Model(first, layer(masked, masked) if heads else layer([masked, masked]))


HEEDING: dict[str, Build] = {
    "both directions": lambda: chain(
        layers.Masking(), layers.Bidirectional(layers.GRU(2, return_sequences=True), name="bad")
    ),
    "heads": lambda: _attending(layers.MultiHeadAttention(1, 2, sliding_window=3, name="bad")),
    "attention": lambda: _attending(layers.Attention(name="bad")),
    "additive": lambda: _attending(layers.AdditiveAttention(name="bad")),
}


@pytest.mark.parametrize("name", HEEDING)
def test_what_heeds_no_mask_here_is_refused(name: str) -> None:
    """Keras hands a mask to attention without a word in the graph."""
    with pytest.raises(UnsupportedLayerError, match=r"'bad'.*given a mask; .*: save the model without it"):
        from_keras(HEEDING[name]())


def test_the_way_out_of_a_mask_is_one() -> None:
    """The same layers without the Masking, given the same weights, are bounded like any other."""
    masked = randomized(HEEDING["both directions"]())
    plain = chain(layers.Bidirectional(layers.GRU(2, return_sequences=True)))
    plain.set_weights(masked.get_weights())
    x = np.random.default_rng(0).standard_normal((24, 6)).astype(np.float32)
    np.testing.assert_allclose(plain(x[None]), masked(x[None]), atol=1e-6)
    stream(from_keras(plain), bounds=Bounds(Chunked(2, 4)))
