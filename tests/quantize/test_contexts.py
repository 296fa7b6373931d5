"""Inputs without time, given once when a stream begins: against Keras, which is given them beside whole sequences."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edgernn.artifact import Artifact
from edgernn.cli import main
from edgernn.devices.runner import open_runner
from edgernn.errors import UnsupportedLayerError, UsageError
from edgernn.quantize.contexts import contexts_of, read_contexts
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.streaming import StepGraph, stream
from edgernn.testing import Near, check_stream_contract
from tests.quantize.networks import Array, randomized
from tests.quantize.test_streaming import stepped

PLACES, WIDTH = 5, 6


def frames() -> Any:
    return keras.Input((None, 4), name="x")


def memory(places: int | None = PLACES) -> Any:
    return keras.Input((places, WIDTH), name="memory")


def attending(attend: Callable[[Any, Any], Any]) -> Any:
    """A causal convolution that asks a memory, between recurrent layers."""
    x, held = frames(), memory()
    asking = layers.Conv1D(WIDTH, 3, padding="causal", activation="tanh")(x)
    found = attend(asking, held)
    joined = layers.Concatenate()([layers.Dense(WIDTH)(found), asking])
    return randomized(keras.Model([x, held], layers.GRU(3, return_sequences=True)(joined)))


def listed(layer: Any) -> Callable[[Any, Any], Any]:
    return lambda query, value: layer([query, value])


ATTENTION: dict[str, Callable[[Any, Any], Any]] = {
    "heads": lambda query, value: layers.MultiHeadAttention(2, 3)(query, value),
    "keys apart": lambda query, value: layers.MultiHeadAttention(3, 2)(query, value, key=layers.Dense(3)(value)),
    "groups": lambda query, value: layers.GroupQueryAttention(3, 4, 2, use_gate=True)(query, value),
    "dot": listed(layers.Attention(use_scale=True)),
    "sum": listed(layers.Attention(score_mode="concat")),
    "additive": listed(layers.AdditiveAttention()),
    "normalized": lambda query, value: layers.MultiHeadAttention(2, 3)(query, layers.LayerNormalization()(value)),
}


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[Array]:
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(np.float32) for shape in ((12, 4), *shapes)]


def assert_as_keras(model: Any, graph: StepGraph, given: list[Array]) -> None:
    """`given` has what all inputs of the model take, without the batch, the frames first."""
    truths = keras.tree.flatten(model([array[None] for array in given]))
    for found, truth in zip(stepped(graph, given), truths, strict=True):
        np.testing.assert_allclose(found.reshape(truth.shape[1:]), np.asarray(truth)[0], atol=2e-5)


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("at_once", [1, 3])
def test_attention_over_a_memory(kind: str, at_once: int) -> None:
    model = attending(ATTENTION[kind])
    graph = stream(from_keras(model), at_once)
    spec = graph.spec()
    assert [(item.name, item.shape) for item in spec.contexts] == [("memory", (1, PLACES, WIDTH))]
    assert [item.name for item in spec.inputs] == ["x"]
    assert (spec.latency_frames, graph.approximations) == (0, ())
    for seed in (1, 2):
        assert_as_keras(model, graph, drawn(seed, (PLACES, WIDTH)))


def _chosen_by_frames(query: Any, value: Any, mask: Any) -> Any:
    seen = keras.ops.logical_and(keras.ops.greater(layers.Dense(PLACES)(query), -0.5), mask[:, None])
    return layers.MultiHeadAttention(2, 3)(query, value, attention_mask=seen)


MASKED: dict[str, Callable[[Any, Any, Any], Any]] = {
    "places of heads": lambda q, v, mask: layers.MultiHeadAttention(2, 3)(q, v, value_mask=mask),
    "places of groups": lambda q, v, mask: layers.GroupQueryAttention(3, 4, 2)(q, v, value_mask=mask),
    "pairs": lambda q, v, mask: layers.MultiHeadAttention(2, 3)(q, v, attention_mask=mask[:, None]),
    "pairs, by frame": _chosen_by_frames,
    "places of a dot": lambda q, v, mask: layers.Attention()([q, v], mask=[None, mask]),
    "places of a sum": lambda q, v, mask: layers.AdditiveAttention()([q, v], mask=[None, mask]),
}


@pytest.mark.parametrize("kind", MASKED)
def test_a_memory_that_is_not_full(kind: str) -> None:
    """The length of a memory is fixed; a mask, which is a context as well, says how much of it is there."""
    x, held, mask = frames(), memory(), keras.Input((PLACES,), name="mask", dtype="bool")
    model = randomized(keras.Model([x, held, mask], MASKED[kind](layers.Dense(WIDTH)(x), held, mask)))
    graph = stream(from_keras(model))
    for there in ([1, 1, 0, 0, 0], [0, 1, 1, 1, 1]):
        assert_as_keras(model, graph, [*drawn(1, (PLACES, WIDTH)), np.array(there, bool)])


def test_a_speaker_is_known_in_every_frame() -> None:
    """An embedding has no axis for places; the model may have it before its frames."""
    speaker, x = keras.Input((WIDTH,), name="speaker"), frames()
    told = keras.ops.expand_dims(layers.Dense(4, activation="tanh")(speaker), 1)
    every = layers.LSTM(3, return_sequences=True)(layers.Add()([x, told]))
    model = randomized(keras.Model([speaker, x], [every, layers.Multiply()([x, told])]))
    graph = stream(from_keras(model), batch=2)
    assert [item.shape for item in graph.spec().contexts] == [(2, WIDTH)]
    lanes = [drawn(seed, (WIDTH,)) for seed in (1, 2)]
    found = stepped(graph, [np.stack(arrays) for arrays in zip(*lanes, strict=True)])
    for lane, (frames_of, said) in enumerate(lanes):
        for output, truth in zip(found, model([said[None], frames_of[None]]), strict=True):
            np.testing.assert_allclose(output.reshape(12, 2, -1)[:, lane], np.asarray(truth)[0], atol=2e-5)


@pytest.mark.parametrize("layer", [layers.GRU, layers.LSTM, layers.SimpleRNN])
def test_a_state_begins_as_the_context_says(layer: Any) -> None:
    x, held = frames(), keras.Input((WIDTH,), name="begin")
    states = [layers.Dense(3)(held) for _ in range(2 if layer is layers.LSTM else 1)]
    behind = layers.Conv1D(4, 3)(x)  # whose first two frames mean nothing: until then the state waits
    model = randomized(keras.Model([x, held], layer(3, return_sequences=True)(behind, initial_state=states)))
    graph = stream(from_keras(model))
    for seed in (1, 2):
        given = drawn(seed, (WIDTH,))
        truth = np.asarray(model([array[None] for array in given]))[0]
        np.testing.assert_allclose(stepped(graph, given)[0].reshape(12, 3)[2:], truth, atol=2e-5)


def test_what_is_a_context_is_told_or_said() -> None:
    x, held = frames(), memory(None)
    model = keras.Model([x, held], layers.Attention()([layers.Dense(WIDTH)(x), held]))
    assert contexts_of(model) == {}
    assert contexts_of(model, {"memory": 7}) == {"memory": 7}
    graph = stream(from_keras(model, {"memory": 7}))
    assert_as_keras(model, graph, drawn(1, (7, WIDTH)))
    x, held = keras.Input((9, 4), name="x"), memory()
    fixed = keras.Model([x, held], layers.Attention()([layers.Dense(WIDTH)(x), held]))
    with pytest.raises(UsageError, match=r"x of 9 frames, memory of 5 frames.*--context"):
        contexts_of(fixed)
    assert contexts_of(fixed, {"memory": None}) == {"memory": PLACES}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"memory": None}, "memory: its length is open.*--context memory=LENGTH"),
        ({"memories": 3}, "memories=3: there is no such input; there are x, memory"),
        ({"x": 9, "memory": 3}, "every input is a context"),
    ],
)
def test_what_cannot_be_one_is_refused(asked: dict[str, int | None], reason: str) -> None:
    x, held = frames(), memory(None)
    with pytest.raises(UsageError, match=reason):
        contexts_of(keras.Model([x, held], layers.Attention()([layers.Dense(WIDTH)(x), held])), asked)


def test_options_are_read() -> None:
    assert read_contexts(["a", "b=3", "a"]) == {"a": None, "b": 3}
    for wrong in ("=3", "a=", "a=0", "a=-1", "a=x"):
        with pytest.raises(UsageError, match="expected --context INPUT or"):
            read_contexts([wrong])
    with pytest.raises(UsageError, match="another length"):
        read_contexts(["a=3", "a=4"])


REFUSED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "an encoder": (
        lambda x, held: layers.Attention()([layers.Dense(3)(x), layers.GRU(3, return_sequences=True)(held)]),
        r"\(GRU\).*runs along a context.*give what comes out as the context",
    ),
    "places beside frames": (
        lambda x, held: layers.Add()([layers.Dense(WIDTH)(x), held]),
        "differs from frame to frame",
    ),
    "the context alone": (lambda x, held: layers.Dense(3)(held), "does not depend on any input frame"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_context_cannot_do_is_refused(name: str) -> None:
    build, reason = REFUSED[name]
    x, held = frames(), memory()
    with pytest.raises(UnsupportedLayerError, match=reason):
        stream(from_keras(keras.Model([x, held], build(x, held))))


def translator() -> Any:
    """Large enough for its products to be quantized, those over the memory among them."""
    x, held, mask = frames(), keras.Input((20, 32), name="memory"), keras.Input((20,), name="mask", dtype="bool")
    asking = layers.GRU(48, return_sequences=True)(x)
    found = layers.MultiHeadAttention(4, 12)(asking, held, value_mask=mask)
    joined = layers.Concatenate()([asking, found])
    return randomized(keras.Model([x, held, mask], layers.LSTM(24, return_sequences=True, name="y")(joined)))


def convert_here(model: Any, tmp_path: Path, *options: str) -> Artifact:
    """Convert with examples of everything but the mask, which is drawn."""
    model.save(tmp_path / "model.keras")
    random = np.random.default_rng(3)
    real = {"x": (2, 300, 4), "memory": (2, 20, 32)}
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in real.items()}
    np.savez(tmp_path / "real.npz", **arrays)  # type: ignore[arg-type]
    told = [str(tmp_path / "model.keras"), "-o", str(tmp_path / "out"), "--calibrate", str(tmp_path / "real.npz"), "-q"]
    assert main(["convert", *told, "--drift-steps", "1000", *options]) == 0
    return Artifact.open(tmp_path / "out")


def assert_proven(model: Any, artifact: Artifact, runtime: str, near: Near, capsys: pytest.CaptureFixture[str]) -> None:
    def whole(*given: Array) -> list[Array]:
        return [np.asarray(model([array[None] for array in given]))[0]]

    assert main(["verify", str(artifact.path), "--runtime", runtime]) == 0
    check_stream_contract(lambda: open_runner(artifact, runtime), whole, steps=24, near=near)
    capsys.readouterr()
    assert main(["inspect", str(artifact.path)]) == 0
    assert re.search(r"context +memory +\d × 20 × 32 .* given once, at a reset", capsys.readouterr().out)


@pytest.mark.parametrize("batch", [1, 3])
def test_an_artifact_is_proven_with_its_contexts(
    tmp_path: Path, batch: int, capsys: pytest.CaptureFixture[str]
) -> None:
    keras.utils.set_random_seed(1)
    model = translator()
    artifact = convert_here(model, tmp_path, "--to", "onnx", "--quantize", "float32", "--batch", str(batch))
    assert_proven(model, artifact, "onnxruntime", Near(1e-4), capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--quantize", "float32"),
        ("--quantize", "int8", "--batch", "2"),
        ("--quantize", "dynamic-int8", "--state", "internal"),
        ("--target", "integer-only"),
    ],
)
def test_and_so_is_one_of_each_kind(
    tmp_path: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    model = translator()
    artifact = convert_here(model, tmp_path, *options)
    for kind in artifact.parity:
        near = Near(1e-4) if "float32" in options else Near(np.inf, snr_db=15)
        assert_proven(model, artifact, {"tflite": "litert", "onnx": "onnxruntime"}[kind], near, capsys)
