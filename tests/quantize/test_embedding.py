"""Inputs of whole numbers: looked up in a table, streamed, converted, and refused beyond the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edgernn.artifact import Artifact
from edgernn.devices.runner import RUNTIMES, open_runner
from edgernn.errors import DataError, ShapeError
from edgernn.quantize.cli import main
from edgernn.quantize.examples import read_streams
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.stepping import invoke_tflite, steps
from edgernn.quantize.streaming import stream
from edgernn.quantize.to_tflite import plain_tflite, quantized_tflite
from edgernn.spec import StreamSpec
from edgernn.stream import FrameStream
from tests.quantize.building import randomized
from tests.quantize.test_streaming import assert_streams

WORDS = 11


def words(dtype: str = "int32", *features: int, name: str = "words") -> Any:
    return keras.Input((None, *features), dtype=dtype, name=name)


def language(dtype: str = "int32") -> Any:
    """The next word, from all words so far."""
    first = words(dtype)
    value = layers.GRU(6, return_sequences=True)(layers.Embedding(WORDS, 5)(first))
    return randomized(keras.Model(first, layers.Dense(WORDS, activation="softmax")(value)))


def several() -> Any:
    """Three numbers a frame, two tables, and frames of real numbers beside them."""
    first, frames = words("int64", 3), keras.Input((None, 4), name="frames")
    small = layers.Embedding(5, 2)(first[:, :, 0])
    large = layers.TimeDistributed(layers.Flatten())(layers.Embedding(WORDS, 3)(first))
    joined = layers.Concatenate()([small, large, frames])
    return randomized(keras.Model([first, frames], layers.LSTM(4)(joined)))


def cut(model: Any, array: np.ndarray) -> Any:
    return np.asarray(model(array[None]))[0]


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32"])
def test_words_stream(dtype: str) -> None:
    graph = assert_streams(language(dtype))
    (tensor,) = graph.spec().inputs
    assert (tensor.shape, tensor.dtype, tensor.below) == ((1, 1), dtype, WORDS)
    assert StreamSpec.from_dict(graph.spec().to_dict()) == graph.spec()


def test_words_beside_frames_stream() -> None:
    graph = assert_streams(several())
    assert [item.below for item in graph.spec().inputs] == [WORDS, None], "all are looked up in the large table"


def test_examples_are_matched_by_name(tmp_path: Path) -> None:
    inputs = stream(from_keras(several())).spec().inputs
    frames, numbers = np.ones((9, 4), np.float32), np.arange(27).reshape(9, 3) % 5
    np.savez(tmp_path / "named.npz", frames=frames, words=numbers)
    np.savez(tmp_path / "unnamed.npz", numbers, frames)
    for name in ("named.npz", "unnamed.npz"):
        ((first, second),) = read_streams(tmp_path / name, inputs, None)
        assert first.dtype == np.int64
        np.testing.assert_array_equal(first, numbers)
        np.testing.assert_array_equal(second, frames)
    np.savez(tmp_path / "strange.npz", frames=frames, wrods=numbers)
    with pytest.raises(DataError, match=r"has the arrays frames, wrods; expected one .* name: words, frames"):
        read_streams(tmp_path / "strange.npz", inputs, None)
    np.savez(tmp_path / "beyond.npz", frames=frames, words=numbers * 3)
    with pytest.raises(DataError, match=r"beyond.npz: the input 'words' takes numbers from 0 to 10, found 0 to 12"):
        read_streams(tmp_path / "beyond.npz", inputs, None)


@pytest.mark.slow
def test_a_table_of_words_is_in_eight_bits_where_weights_are() -> None:
    first = words()
    value = layers.Dense(5)(layers.GRU(8, return_sequences=True)(layers.Embedding(1000, 16)(first)))
    model = randomized(keras.Model(first, value))
    plain, spec = plain_tflite(stream(from_keras(model)))
    said = np.random.default_rng(0).integers(0, 1000, 60).astype(np.int32)
    for scheme in ("dynamic-int8", "int8", "int4"):
        content, spec = quantized_tflite(plain, spec, SCHEMES[scheme], [(said,)])
        assert len(content) < len(plain) - 40_000, scheme
        rows = np.concatenate([step[spec.outputs[0].name][0] for step in steps(invoke_tflite(content), spec, [said])])
        np.testing.assert_allclose(rows, cut(model, said), atol=0.05, err_msg=scheme)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Artifact]:
    folder, model = tmp_path_factory.mktemp("language"), language()
    model.save(folder / "language.keras")
    assert main([str(folder / "language.keras"), "-o", str(folder / "out"), "-q"], "edgernn convert") == 0
    return model, Artifact.open(folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["litert", "onnxruntime"])
def test_a_runner_takes_words(artifact: tuple[Any, Artifact], runtime: str) -> None:
    assert runtime in RUNTIMES
    model, folder = artifact
    runner = FrameStream(open_runner(folder, runtime))
    said = np.random.default_rng(0).integers(0, WORDS, 50).astype(np.int32)
    (rows,) = runner.push(said)
    np.testing.assert_allclose(rows, cut(model, said), atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["litert", "onnxruntime"])
@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        (np.array([WORDS], np.int32), "takes numbers from 0 to 10, found 11 to 11"),
        (np.array([-1], np.int32), "takes numbers from 0 to 10, found -1 to -1"),
        (np.array([1.0], np.float32), "takes whole numbers"),
    ],
)
def test_a_word_beyond_the_table_is_an_error(
    artifact: tuple[Any, Artifact], runtime: str, frames: np.ndarray, complaint: str
) -> None:
    runner = open_runner(artifact[1], runtime)
    with pytest.raises(ShapeError, match=complaint):
        runner.step(frames)
    with pytest.raises(ShapeError, match=complaint):
        FrameStream(runner).push(frames)
