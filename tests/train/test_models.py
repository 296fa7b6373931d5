import keras
import numpy as np
import pytest

from edgernn.errors import UsageError
from edgernn.train.models import MODELS, build_model
from edgernn.train.recipe import PRESETS, ModelRecipe, preset

STREAMABLE = {
    "InputLayer", "LSTM", "GRU", "SimpleRNN", "Conv1D", "DepthwiseConv1D", "SeparableConv1D", "BatchNormalization",
    "LayerNormalization", "Dense", "Dropout", "SpatialDropout1D", "Activation", "ReLU", "Add", "Concatenate",
    "AveragePooling1D", "MaxPooling1D",
}  # fmt: skip


@pytest.mark.parametrize("kind", PRESETS)
def test_models_are_small_and_made_of_layers_that_stream(kind: str) -> None:
    model = build_model(preset(kind).model, bands=40, classes=11)
    assert {type(layer).__name__ for layer in model.layers} <= STREAMABLE
    assert model.count_params() <= 200_000
    assert model.input_shape == (None, None, 40)
    assert model.output_shape == (None, 11)
    assert model.layers[-1].activation is keras.activations.linear


@pytest.mark.parametrize("kind", MODELS)
def test_what_comes_later_does_not_change_what_was_said(kind: str) -> None:
    recipe = ModelRecipe(kind, conv_filters=(6, 6), units=(7, 5))
    model = build_model(recipe, bands=4, classes=3)
    frames = np.random.default_rng(0).normal(0, 1, (2, 16, 4)).astype(np.float32)
    short = model.predict_on_batch(frames[:, :8])
    assert short.shape == (2, 3)
    assert not np.allclose(short, model.predict_on_batch(frames), atol=1e-4)  # it listens to the last frames
    frames[:, 8:] = 9.0
    np.testing.assert_allclose(model.predict_on_batch(frames[:, :8]), short, atol=1e-6)


def test_a_model_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="no model 'transformer'; the models are: crnn, gru, lstm"):
        build_model(ModelRecipe("transformer"), 40, 11)
    with pytest.raises(UsageError, match="no model 'transformer'; the models are: crnn, gru, lstm"):
        preset("transformer")


def test_presets_and_builders_are_the_same_kinds() -> None:
    assert set(PRESETS) == set(MODELS)
    assert all(recipe.model.kind == kind for kind, recipe in PRESETS.items())
