"""Whole conversions of what the fast tests stream in ONNX alone: both formats, proven against Keras."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgernn.quantize.convert import Options, convert
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.source import source_of
from tests.quantize.building import randomized
from tests.quantize.operation_networks import OPERATIONS
from tests.quantize.recurrent_networks import CELLS, MASKED

CONVERTED = {
    "elementwise": "float32",
    "moving": "float32",
    "reducing": "float32",
    "normalizing": "float32",
    "cell_of_one's_own_behind_windows": "float32",
    "masked_words": "dynamic-int8",
    "masked_gru": "int8",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVERTED)
def test_what_streams_is_converted(name: str, tmp_path: Path) -> None:
    scheme = SCHEMES[CONVERTED[name]]
    model = randomized({**OPERATIONS, **CELLS, **MASKED}[name]())
    options = Options(formats=("tflite", "onnx"), scheme=scheme, tolerance=scheme.tolerance)
    artifact = convert(source_of(model, "network"), tmp_path / "out", options)
    assert sorted(artifact.programs["step"]) == ["onnx", "tflite"]
