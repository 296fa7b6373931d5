"""An artifact that takes sound: converted, opened, and run as one that takes frames."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import layers

from edgernn.artifact import MANIFEST, Artifact
from edgernn.decode.keyword import KeywordSpec
from edgernn.devices.inspect import describe
from edgernn.devices.pipeline import open_stream
from edgernn.devices.runner import open_runner
from edgernn.errors import ArtifactError, UsageError
from edgernn.events import Event
from edgernn.frontend import LogMel, log_mel
from edgernn.quantize.convert import Options, convert
from edgernn.quantize.embedded import embedded
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.source import KerasSource
from edgernn.stream import FrameStream
from tests.quantize.networks import FEATURES, chain, randomized
from tests.quantize.test_front_end import sound

PARAMS = LogMel(8000, 200, 80, 256, bands=FEATURES, high_hz=3800.0)
LABELS = ["one", "two", "other"]


def source_of(tmp_path: Path, front_end: bool = True) -> KerasSource:
    model = randomized(chain(layers.GRU(8, return_sequences=True), layers.Dense(3)))
    facts: dict[str, Any] = {
        "labels": LABELS,
        "frame_rate_hz": PARAMS.frame_rate_hz,
        "front_end": PARAMS.to_dict(),
        "decoder": KeywordSpec("softmax", smoothing_ms=30, refractory_ms=50, ignore=("other",)).to_dict(),
    }
    return KerasSource(model=model, path=tmp_path, sha256="0", name="sound", facts=facts if front_end else {})


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Artifact]:
    """Return the artifact of one model without and with its front end inside."""
    tmp_path = tmp_path_factory.mktemp("embedded")
    options = Options(("onnx",), SCHEMES["float32"], SCHEMES["float32"].tolerance, drift_steps=600)
    source = source_of(tmp_path)
    return {
        inside: convert(embedded(source) if inside else source, tmp_path / str(inside), options)
        for inside in (False, True)
    }


def test_sound_goes_straight_in(both: dict[bool, Artifact]) -> None:
    artifact, samples = both[True], sound(30 * PARAMS.hop_samples)
    assert artifact.front_end_embedded
    assert artifact.front_end == both[False].front_end
    assert artifact.frame_rate_hz == PARAMS.rate_hz, "its frames are samples"
    frames = FrameStream(open_runner(both[False])).push(log_mel(samples, PARAMS))[0]
    for pieces in ([samples], np.array_split(samples, 7)):
        stream = FrameStream(open_runner(artifact))
        rows = np.concatenate([stream.push(piece)[0] for piece in pieces])
        np.testing.assert_allclose(rows, frames[: len(rows)], atol=1e-3)


def test_a_live_stream_hears_the_same(both: dict[bool, Artifact]) -> None:
    samples = sound(400 * PARAMS.hop_samples, seed=3)
    heard: dict[bool, list[Event]] = {}
    for inside, artifact in both.items():
        stream = open_stream(artifact)
        heard[inside] = [event for piece in np.array_split(samples, 90) for event in stream.push(piece)]
        assert stream.samples == len(samples)
        assert abs(stream.frames - 400) < 3, "frames are frames, not samples"
        stream.reset()
        assert [event for event in stream.push(samples[:9000]) if event.end_s < 1] == [
            event for event in heard[inside] if event.end_s < 1
        ]
    assert len(heard[True]) > 2
    for one, other in zip(*heard.values(), strict=False):
        assert replace(one, score=0.0) == replace(other, score=0.0)


def test_what_is_inside_is_said(both: dict[bool, Artifact]) -> None:
    text = describe(both[True])
    assert "front end, inside the model" in text
    assert "80 frames a step (10 ms), latency 160 frames (20 ms)" in text
    assert "inside the model" not in describe(both[False])


def test_a_flag_is_true_or_false(both: dict[bool, Artifact], tmp_path: Path) -> None:
    path = shutil.copytree(both[True].path, tmp_path / "copy") / MANIFEST
    path.write_text(path.read_text().replace('"front_end_embedded": true', '"front_end_embedded": "yes"'))
    with pytest.raises(ArtifactError, match="'front_end_embedded' is malformed: expected true or false, found 'yes'"):
        Artifact.open(path.parent)


def test_a_model_without_a_front_end_has_none_to_embed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no audio front end to embed"):
        embedded(source_of(tmp_path, front_end=False))
