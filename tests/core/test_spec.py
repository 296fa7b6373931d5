from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgernn.errors import ArtifactError
from edgernn.spec import QuantParams, StateSpec, StreamSpec, TensorSpec

SPEC = StreamSpec(
    inputs=(TensorSpec("x", (1, 4, 40), "int8", QuantParams(0.5, -3)),),
    outputs=(TensorSpec("y", (1, 2, 3)), TensorSpec("z", (1, 5))),
    states=(StateSpec("h", "h_in", "h_out", (1, 8), "int16", QuantParams(0.25), 1.0, 2),),
    frames_per_step=4,
    output_delays=(3, 2),
    output_kinds=("frames", "prefix"),
    latency_frames=6,
)


def test_json_there_and_back() -> None:
    assert StreamSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC


def test_sizes_and_warm_up() -> None:
    assert (SPEC.inputs[0].nbytes, SPEC.outputs[0].nbytes, SPEC.state_nbytes) == (160, 24, 16)
    assert SPEC.warmup_steps == 2  # three late frames are two steps of two frames; the prefix is two steps late


@pytest.mark.parametrize("change", [{"inputs": 3}, {"states": [{"name": "h"}]}, {"surprise": 1}, {"outputs": None}])
def test_malformed_manifest_is_an_artifact_error(change: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match="malformed"):
        StreamSpec.from_dict({**SPEC.to_dict(), **change})
    with pytest.raises(ArtifactError, match="malformed"):
        StreamSpec.from_dict({})


def test_rounding_is_half_to_even_and_the_ends_are_clipped() -> None:
    quant = QuantParams(1.0, 1)
    real = np.array([-1000.0, -129.5, -0.5, 0.5, 1.5, 2.5, 125.6, 1000.0])
    assert quant.quantize(real, "int8").tolist() == [-128, -128, 1, 1, 3, 3, 127, 127]
    assert QuantParams(0.5, 128).quantize(np.array([-64.0, 63.5, 64.0]), "uint8").tolist() == [0, 255, 255]


@given(st.floats(1e-3, 10), st.integers(-128, 127), st.integers(-128, 127))
def test_levels_survive_there_and_back(scale: float, zero_point: int, level: int) -> None:
    quant = QuantParams(scale, zero_point)
    levels = np.array([level], np.int8)
    assert quant.quantize(quant.dequantize(levels), "int8") == levels


def test_initial_state_has_its_real_value() -> None:
    state = SPEC.states[0]
    assert state.initial_array().tolist() == [[4] * 8]
    assert StateSpec("h", "a", "b", (2,), initial=-1.5).initial_array().tolist() == [-1.5, -1.5]
