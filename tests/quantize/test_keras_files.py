"""Models from files of Keras 3 and Keras 2, in half precision, and models in hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from edgernn.errors import ConversionError, UnsupportedLayerError, UsageError
from edgernn.quantize.cli import main
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.source import KerasSource, load_source, source_of
from tests.quantize.building import chain, frames, keras_outputs, randomized
from tests.quantize.operation_networks import Gated
from tests.quantize.test_streaming import assert_streams

KERAS_2 = Path(__file__).parent / "keras2"


def loaded(path: Path) -> Any:
    source = load_source(path)
    assert isinstance(source, KerasSource)
    return source.model


def same_weights(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize("name", ["sequential.h5", "words.h5", "nested.h5", "stack", "nested"])
def test_models_of_keras_2(name: str) -> None:
    model, known = loaded(KERAS_2 / name), np.load(KERAS_2 / f"{Path(name).stem}.npz")
    np.testing.assert_allclose(keras_outputs(model, [known["x"]])[0], known["y"], atol=1e-6)
    assert from_keras(model).graph.outputs


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_models_of_keras_3(suffix: str, tmp_path: Path) -> None:
    first = frames()
    inner = chain(layers.Conv1D(4, 3, padding="causal"), layers.BatchNormalization())
    model = randomized(keras.Model(first, layers.GRU(3)(layers.Add()([inner(first), layers.Dense(4)(first)]))))
    model.save(tmp_path / f"model{suffix}")
    assert same_weights(loaded(tmp_path / f"model{suffix}"), model)


def changed(name: str, path: Path, change: Any) -> Path:
    """Copy an HDF5 file with another configuration."""
    copy = Path(shutil.copy(KERAS_2 / name, path))
    with h5py.File(copy, "r+") as stored:
        config = json.loads(stored.attrs["model_config"])
        change(config["config"]["layers"])
        stored.attrs["model_config"] = json.dumps(config)
    return copy


def test_code_in_an_hdf5_file_is_not_run(tmp_path: Path) -> None:
    def with_lambda(listed: Any) -> None:
        listed[-2] = {"class_name": "Lambda", "config": {"name": "bad", "function": ["gASV", None, None]}}

    with pytest.raises(UnsupportedLayerError, match=r"'bad' \(Lambda\): it holds code.*source_of"):
        load_source(changed("sequential.h5", tmp_path, with_lambda))


def test_time_before_the_batch_is_refused(tmp_path: Path) -> None:
    path = changed("sequential.h5", tmp_path, lambda listed: listed[3]["config"].update(time_major=True))
    with pytest.raises(ConversionError, match="'lstm' has time before the batch"):
        load_source(path)


def test_weights_under_another_layers_name_are_refused(tmp_path: Path) -> None:
    """Keras takes the weights of a file in order, whatever they are called."""
    path = Path(shutil.copy(KERAS_2 / "sequential.h5", tmp_path))
    with h5py.File(path, "r+") as stored:
        group = stored["model_weights"]["conv1d"]
        names = list(group.attrs["weight_names"])
        group.attrs["weight_names"] = [names[0], names[0]]
    with pytest.raises(ConversionError):
        load_source(path)


def test_weights_without_a_model_are_refused(tmp_path: Path) -> None:
    model = chain(layers.Dense(2))
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ConversionError, match="weights and no model"):
        load_source(tmp_path / "model.weights.h5")


def test_a_saved_model_of_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(ConversionError, match=r"no signature serving_default .*model\.save"):
        load_source(tmp_path)
    (tmp_path / "keras_metadata.pb").write_bytes(b"\x0a\x05nonsense")
    with pytest.raises(ConversionError, match="no model of layers"):
        load_source(tmp_path)
    with pytest.raises(UsageError, match=r"expected a \.keras, \.h5 or \.onnx file"):
        load_source(tmp_path / "nothing")


def half_precision() -> Any:
    with_policy = {"dtype": "mixed_float16"}
    return randomized(chain(layers.GRU(4, return_sequences=True, **with_policy), layers.Dense(3, **with_policy)))


def test_half_precision_becomes_float32_and_is_said_so(tmp_path: Path) -> None:
    half_precision().save(tmp_path / "half.keras")
    source = load_source(tmp_path / "half.keras")
    assert "mixed_float16" in source.remarks[0]
    assert isinstance(source, KerasSource)
    assert {layer.compute_dtype for layer in source.model.layers} == {"float32"}
    assert same_weights(source.model, half_precision())
    assert_streams(source.model)


class Speaker(keras.Model):  # type: ignore[misc]
    """A model of a class of its own, which holds layers of their own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gate, self.listen, self.say = Gated(4), layers.GRU(5, return_sequences=True), layers.Dense(3)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.say(self.listen(keras.ops.relu(self.gate(inputs))))


class Two(keras.Model):  # type: ignore[misc]
    """Two inputs by name, one of them of words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.listen = layers.Embedding(9, 4), layers.LSTM(3)

    def call(self, inputs: Any) -> Any:
        return self.listen(keras.ops.concatenate([self.embed(inputs["words"]), inputs["sound"]], axis=-1))


def test_a_model_of_ones_own_is_traced() -> None:
    model = Speaker(name="speaker")
    with pytest.raises(ConversionError, match="'speaker' is a model of a class of its own that was never called"):
        source_of(model)
    sound = np.random.default_rng(0).standard_normal((2, 9, 6)).astype(np.float32)
    expected = np.asarray(model(sound))
    source = source_of(model)
    assert isinstance(source, KerasSource)
    np.testing.assert_allclose(source.oracle().batch([sound])[0], expected, atol=1e-6)
    assert_streams(source.model)
    with pytest.raises(ConversionError, match="source_of"):
        from_keras(model)


def test_a_model_of_ones_own_with_two_inputs() -> None:
    inputs = {"words": keras.Input((None,), dtype="int32", name="words"), "sound": frames(name="sound")}
    source = source_of(Two(), "two", inputs)
    assert isinstance(source, KerasSource)
    assert source.name == "two"
    assert {value.name for value in source.graph().graph.inputs} == {"words", "sound"}
    assert_streams(source.model)


@pytest.mark.slow
def test_an_old_file_is_converted(tmp_path: Path) -> None:
    arguments = [str(KERAS_2 / "words.h5"), "-o", str(tmp_path / "out"), "-q", "--quantize", "float32"]
    assert main(arguments, "edgernn convert") == 0
