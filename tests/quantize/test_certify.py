"""The certificate as a conversion makes it: Keras for the source, the device's own runner for the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edgernn.artifact import Artifact
from edgernn.certificate import read_certificate
from edgernn.devices.verify import verify
from edgernn.quantize.convert import Options, convert
from edgernn.quantize.exact import is_exact
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.source import KerasSource
from tests.quantize.building import chain, frames, keras_outputs, randomized

STEPS = 1200


def converted(model: Any, folder: Path, scheme: str = "float32", **options: Any) -> Artifact:
    source = KerasSource(path=Path("model.keras"), sha256="", name="model", model=model)
    wanted = Options(("onnx",), SCHEMES[scheme], SCHEMES[scheme].tolerance, drift_steps=STEPS, **options)
    return convert(source, folder / "artifact", wanted)


def test_its_truth_is_what_keras_gives_for_its_frames_again_and_again(tmp_path: Path) -> None:
    model = randomized(chain(layers.GRU(5, return_sequences=True), layers.Dense(3)))
    certificate = read_certificate(converted(model, tmp_path))
    (given,), (golden,) = certificate.frames, certificate.outputs
    assert certificate.steps == STEPS
    assert 200 <= len(given) < STEPS
    repeated = np.resize(given, (STEPS, *given.shape[1:]))
    (truth,) = keras_outputs(model, [repeated[None]])
    late = golden.steps[golden.asked] >= STEPS - STEPS // 10
    assert late.sum() >= 20
    assert (golden.steps < 8).sum() == 8, "the first ones are all compared"
    np.testing.assert_allclose(golden.source[:, 0, 0], truth[0, golden.steps[golden.asked]], atol=1e-5)


@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_the_runner_of_a_device_gives_the_same_bits_as_the_converter(scheme: str, tmp_path: Path) -> None:
    first = frames()
    value = layers.Conv1D(8, 3, strides=2)(first)
    model = keras.Model(first, [layers.LSTM(6, return_sequences=True)(value), layers.GlobalAveragePooling1D()(value)])
    (replay,) = verify(converted(randomized(model), tmp_path, scheme, batch=2))
    assert replay.same_machine
    assert [output.first_difference for output in replay.outputs] == [None, None]
    for output in replay.outputs:
        assert 0 < output.from_source <= output.allowed_from_source


def test_what_only_moves_and_compares_promises_bits_everywhere(tmp_path: Path) -> None:
    moved = converted(chain(layers.MaxPooling1D(4, strides=1), layers.ReLU()), tmp_path)
    assert is_exact(moved.conversion["operators"]["onnx"])
    assert read_certificate(moved).made["onnx"].bounds[0].elsewhere == 0.0
    summed = converted(randomized(chain(layers.Dense(2))), tmp_path)
    assert not is_exact(summed.conversion["operators"]["onnx"])
    bound = read_certificate(summed).made["onnx"].bounds[0]
    assert bound.elsewhere == pytest.approx(2 * bound.max_abs + 1e-5 * bound.scale)


def test_few_drift_steps_cover_what_there_are_frames_for(tmp_path: Path) -> None:
    model = randomized(chain(layers.GRU(4, return_sequences=True)))
    source = KerasSource(path=Path("model.keras"), sha256="", name="model", model=model)
    scheme = SCHEMES["float32"]
    artifact = convert(source, tmp_path / "a", Options(("onnx",), scheme, scheme.tolerance, drift_steps=1))
    certificate = read_certificate(artifact)
    assert certificate.steps == len(certificate.frames[0])
    assert verify(artifact)[0].steps == certificate.steps
