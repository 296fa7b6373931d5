"""Quantization-aware training: what is rounded, that gradients pass, and that the result converts without loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx_ir as ir
import pytest
from keras import layers

from edgernn.cli import main
from edgernn.errors import UsageError
from edgernn.quantize.graph import Builder
from edgernn.quantize.onnx_integers import integer_products
from edgernn.quantize.onnx_weights import nibble_products
from edgernn.train.quantize_aware import BITS, eight_bits, quantization_aware, rounded, settle
from edgernn.train.recipe import FitRecipe, Recipe, fine_tuning
from tests.quantize.microsoft import evaluate
from tests.quantize.networks import Array, chain, randomized

Build = Callable[[], Any]
FEATURES = 20


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(cell: Any) -> Any:
    """Return a model with each kind of layer that is replaced, and some that are not."""
    parts = (
        layers.Conv1D(24, 5, strides=2, padding="causal", use_bias=False), layers.BatchNormalization(),
        layers.Dropout(0.2), cell, layers.Dense(3),
    )  # fmt: skip
    return randomized(chain(*parts, features=FEATURES))


CELLS: dict[str, Build] = {
    "lstm": lambda: layers.LSTM(24),
    "gru": lambda: layers.GRU(24),
    "gru, reset before": lambda: layers.GRU(24, reset_after=False, use_bias=False),
    "rnn": lambda: layers.SimpleRNN(24),
    "rnn, relu": lambda: layers.SimpleRNN(24, activation="relu", recurrent_initializer="zeros"),
    "every frame, backwards": lambda: layers.LSTM(24, return_sequences=True, go_backwards=True),
}


def relative(found: Array, truth: Array) -> float:
    return float(np.sqrt(np.mean((found - truth) ** 2) / np.mean(truth**2)))


@pytest.mark.parametrize("name", CELLS)
def test_the_copy_differs_by_rounding_alone(name: str) -> None:
    """Against Keras' own cells: a little in 8 bits, more in 4, and by nothing but the levels of weights and inputs."""
    model, frames = network(CELLS[name]()), normal(4, 30, FEATURES)
    truth = np.asarray(model(frames))
    errors = [relative(np.asarray(quantization_aware(model, scheme)(frames)), truth) for scheme in ("int8", "int4")]
    assert 1e-4 < errors[0] < 0.08
    assert errors[0] < errors[1] < 0.8


@pytest.mark.parametrize("scheme", BITS)
def test_every_weight_learns(scheme: str) -> None:
    """The rounding itself has no slope anywhere: gradients pass beside it."""
    import tensorflow as tf

    aware = quantization_aware(network(layers.GRU(24)), scheme)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(aware(normal(4, 30, FEATURES)) ** 2)
    slopes = tape.gradient(loss, [weight.value for weight in aware.trainable_weights])
    for weight, slope in zip(aware.trainable_weights, slopes, strict=True):
        assert slope is not None, weight.path
        assert np.abs(np.asarray(slope)).max() > 0, weight.path


@pytest.mark.parametrize("scheme", BITS)
def test_settled_weights_are_those_that_the_copy_computed_with(scheme: str) -> None:
    model, frames = network(layers.GRU(24)), normal(4, 30, FEATURES)
    aware = quantization_aware(model, scheme)
    before = np.asarray(aware(frames))
    plain = keras.Model.from_config(model.get_config())
    settle(aware, plain)
    np.testing.assert_allclose(np.asarray(aware(frames)), before, atol=1e-5)
    assert [type(layer) for layer in plain.layers] == [type(layer) for layer in model.layers]
    assert 0 < relative(np.asarray(plain(frames)), before) < 0.05, "only what weights multiply is not rounded there"
    for first, second in zip(quantization_aware(plain, scheme).get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)


@pytest.mark.parametrize("rows", [20, 48, 64])
@pytest.mark.parametrize("scheme", BITS)
def test_the_compiler_finds_settled_weights_as_they_are(scheme: str, rows: int) -> None:
    """Its levels are these: it loses nothing more of them. Of others it loses what rounding loses."""
    convert = {"int8": integer_products, "int4": nibble_products}[scheme]

    def loss(matrix: Array) -> float:
        builder = Builder("product")
        builder.output(builder.op("MatMul", builder.input("x", (1, rows)), builder.constant(matrix)), "y")
        model: ir.Model = convert(builder.finish())
        stored = [evaluate(model, {"x": row[None]})["y"] for row in np.eye(rows, dtype=np.float32)]
        return relative(np.concatenate(stored), matrix)

    matrix = normal(rows, 30)
    settled = np.asarray(rounded(keras.ops.convert_to_tensor(matrix), BITS[scheme]))
    assert loss(settled) < 1e-5 < 3e-3 < loss(matrix)


def test_values_are_rounded_to_256_levels_with_zero_among_them() -> None:
    values = normal(1000) + 0.7
    levels = np.unique(np.asarray(eight_bits(keras.ops.convert_to_tensor(np.append(values, 0)))))
    assert len(levels) <= 257
    assert 0 in levels
    scale = np.ptp(np.append(values, 0)) / 255
    assert np.abs(np.asarray(eight_bits(keras.ops.convert_to_tensor(values))) - values).max() <= scale * 0.51


def test_copies_are_made_from_configurations() -> None:
    """As the training loop does it, for the average of the weights."""
    aware = quantization_aware(network(layers.LSTM(24)), "int4")
    again = keras.Model.from_config(aware.get_config())
    again.set_weights(aware.get_weights())
    frames = normal(2, 20, FEATURES)
    np.testing.assert_allclose(np.asarray(again(frames)), np.asarray(aware(frames)), atol=1e-6)


def test_what_cannot_be_trained_for_is_refused() -> None:
    with pytest.raises(UsageError, match="no training for 'float16'; choose one of int8, int4"):
        quantization_aware(network(layers.GRU(4)), "float16")
    with pytest.raises(UsageError, match="'leaky' has dropout inside its cell"):
        quantization_aware(network(layers.GRU(4, dropout=0.1, name="leaky")), "int8")
    with pytest.raises(UsageError, match="no layer whose products"):
        quantization_aware(chain(layers.ReLU()), "int8")
    with pytest.raises(UsageError, match="quantize_aware must be int8 or int4"):
        FitRecipe(quantize_aware="int3")


def test_fine_tuning_is_short_and_careful() -> None:
    usual, fine = Recipe(), fine_tuning(Recipe())
    assert fine.fit.epochs < usual.fit.epochs / 10
    assert fine.fit.learning_rate == pytest.approx(usual.fit.learning_rate / 10)
    assert fine.model == usual.model


def train(*arguments: object) -> int:
    return main(["train", "keyword-spotting", *map(str, arguments)])


@pytest.mark.slow
def test_a_run_is_fine_tuned_for_int4(
    tones: Path, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--data", tones, "-o", tmp_path / "run", "--recipe", recipe_file) == 0
    words = ("--data", tones, "-o", tmp_path / "fine", "--finetune", tmp_path / "run")
    assert train(*words, "--quantize-aware", "int4", "--epochs", 2) == 0
    capsys.readouterr()
    assert train(*words, "--words", "low") == 2
    assert "exists already" in capsys.readouterr().err
    first, second = (keras.models.load_model(tmp_path / name / "model.keras") for name in ("run", "fine"))
    assert [type(layer) for layer in first.layers] == [type(layer) for layer in second.layers]
    for number, scheme in enumerate(("weights-int8", "int4")):
        for name in ("run", "fine"):
            target = tmp_path / f"{name}-{number}"
            options = ("--to", "onnx", "--quantize", scheme, "--tolerance", "9,snr=0,accuracy=1", "-q")
            assert main(["convert", str(tmp_path / name), "-o", str(target), *options]) == 0


def test_finetune_takes_its_recipe_from_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--data", tmp_path, "-o", tmp_path / "fine", "--finetune")
    assert train(*words, tmp_path / "none") == 2
    assert "expected the folder of a training run" in capsys.readouterr().err
    assert train(*words, tmp_path, "--model", "gru") == 2
    assert "leave out --words, --model and --recipe" in capsys.readouterr().err
