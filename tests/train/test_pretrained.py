"""The model and the recordings that lie in the repository are what their papers say."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from edgernn.clips import class_of, read_audio
from edgernn.decode.keyword import KeywordSpec
from edgernn.frontend import FrontEnd, LogMel
from edgernn.train.examples import clip_frames, frames_of
from edgernn.train.recipe import read_recipe

PRETRAINED = Path(__file__).parents[2] / "train" / "pretrained"
MODEL, SAMPLES = PRETRAINED / "keyword-crnn", PRETRAINED / "samples"
FACTS = json.loads((MODEL / "run.json").read_text())
PARAMS = LogMel.from_dict(FACTS["front_end"])


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return keras.models.load_model(MODEL / "model.keras", compile=False)


def test_the_model_is_as_small_as_it_says(model: keras.Model) -> None:
    assert model.count_params() == FACTS["parameters"] <= 200_000
    assert (MODEL / "model.keras").stat().st_size <= 1_000_000
    assert (MODEL / "calibration.npz").stat().st_size <= 600_000
    assert model.output_shape == (None, len(FACTS["labels"]))


def test_its_card_and_its_recipe_agree_with_the_run() -> None:
    card, accuracy = (MODEL / "MODEL_CARD.md").read_text(), FACTS["accuracy"]
    assert f"**{100 * accuracy['dev']:.2f} %** ({accuracy['right']} of {accuracy['clips']} clips)" in card
    assert f"{FACTS['parameters']:,}" in card
    recipe = read_recipe(MODEL / "recipe.toml")
    assert [*recipe.words, "unknown", "silence"] == FACTS["labels"]
    assert KeywordSpec.from_dict(FACTS["decoder"]).threshold == recipe.decoder.threshold


def test_calibration_streams_look_like_what_the_model_sees() -> None:
    with np.load(MODEL / "calibration.npz") as file:
        streams = file["x"].astype(np.float32)
    assert streams.shape[1:] == (320, PARAMS.bands)
    assert np.isfinite(streams).all()
    assert abs(streams.mean()) < 1.0
    assert 0.5 < streams.std() < 2.0


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.flac")), ids=lambda path: path.stem)
def test_it_knows_the_single_clips(model: keras.Model, path: Path) -> None:
    frames = frames_of(read_audio(path, PARAMS.rate_hz), FrontEnd(PARAMS), clip_frames(PARAMS))
    found = FACTS["labels"][int(model.predict_on_batch(frames[None]).argmax())]
    assert found == class_of(path.stem, FACTS["labels"])


def test_the_demo_recording_holds_the_words_it_says() -> None:
    demo = json.loads((SAMPLES / "demo.json").read_text())
    sound = read_audio(SAMPLES / "demo.wav", demo["rate_hz"])
    assert len(sound) / demo["rate_hz"] == pytest.approx(demo["seconds"], abs=1e-3)
    times = [time for word in demo["words"] for time in (word["start_s"], word["end_s"])]
    assert times == sorted(times)
    assert times[-1] < demo["seconds"]
    credits = (SAMPLES / "CREDITS.md").read_text()
    assert all(word["file"] in credits for word in demo["words"])
    assert (SAMPLES / "demo.wav").stat().st_size <= 700_000
