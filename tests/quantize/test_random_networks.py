"""The stream contract of networks drawn at random, in each back end and scheme, with Keras for an oracle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edgernn.artifact import ModelFile
from edgernn.devices.runner import open_model
from edgernn.quantize.convert import Options, prepare
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.source import KerasSource, Source
from edgernn.testing import Near, Whole, check_stream_contract
from tests.quantize.building import keras_outputs, randomized
from tests.quantize.random_networks import draw_network

# Float32 is met to its last digits. What is quantized is a bound for tiny networks of random weights, in which few
# values share each scale: far from what it would be if any frame were another one (0 dB).
NEAR = {
    "float32": Near(2e-4),
    "float16": Near(np.inf, 35.0),
    "weights-int8": Near(np.inf, 15.0),
    "dynamic-int8": Near(np.inf, 15.0),
    "int8": Near(np.inf, 8.0),
    "int4": Near(np.inf, 3.0),
}
STEPS = 24


def oracle(model: Any) -> Whole:
    return lambda *inputs: [output[0] for output in keras_outputs(model, [array[None] for array in inputs])]


def check(model: Any, kind: str, scheme: str, batch: int, factor: int) -> None:
    """Convert a Keras model and check the file's contract."""
    source = KerasSource(path=Path("drawn.keras"), sha256="", name="drawn", model=randomized(model))
    check_source(source, oracle(source.model), kind, scheme, batch, factor)


def check_source(source: Source, whole: Whole, kind: str, scheme: str, batch: int, factor: int) -> None:
    """Convert a source and check the file's contract against what runs whole sequences."""
    size = factor * source.step().frames_per_step
    chosen = SCHEMES[scheme]
    options = Options(
        (kind,), chosen, chosen.tolerance, frames_per_step=size, batch=batch, parity_steps=max(60, 200 // size)
    )
    prepared = prepare(source, options, lambda line: None)
    built, late = prepared.build(kind, chosen), [timing.extra_input_frames for timing in prepared.kept.timings]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, built.file)
        path.write_bytes(built.content)
        file = ModelFile(kind, path, scheme, built.spec, len(built.content))
        check_stream_contract(lambda: open_model(file), whole, STEPS, NEAR[scheme], late)


def drawn(examples: int) -> settings:
    """Return settings for `examples` networks, the same ones each time."""
    return settings(
        phases=[Phase.explicit, Phase.generate],  # each takes a second: to look for a smaller one, minutes
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip


@given(data=st.data(), batch=st.integers(1, 3), factor=st.integers(1, 2))
@drawn(2)
def test_float32_in_onnx(data: st.DataObject, batch: int, factor: int) -> None:
    check(draw_network(data.draw), "onnx", "float32", batch, factor)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [name for name in SCHEMES if "onnx" in SCHEMES[name].formats])
@given(data=st.data(), batch=st.integers(1, 3), factor=st.integers(1, 2))
@drawn(8)
def test_every_scheme_in_onnx(scheme: str, data: st.DataObject, batch: int, factor: int) -> None:
    check(draw_network(data.draw), "onnx", scheme, batch, factor)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["float32", "dynamic-int8", "int8"])
@given(data=st.data(), batch=st.integers(1, 2))
@drawn(2)
def test_tflite(scheme: str, data: st.DataObject, batch: int) -> None:
    check(draw_network(data.draw), "tflite", scheme, batch, 1)
