"""Attention that PyTorch exported, stepped, against what PyTorch gave for the whole sequence."""

from __future__ import annotations

import numpy as np
import pytest

from edgernn.errors import UnsupportedLayerError
from edgernn.quantize.bounds import EXACT, Bounds, Window
from edgernn.quantize.onnx_source import OnnxChoices
from edgernn.quantize.streaming import StepGraph
from tests.quantize.test_from_onnx import expected, loaded, stepped

FRAMES = 20  # of each example: a window as long sees all of it
WHOLE, AROUND = Bounds(attention=Window(FRAMES)), Bounds(attention=Window(FRAMES, FRAMES - 1))
NAMES = {"attention_fused": WHOLE, "attention_both_ways": AROUND, "attention_masked": EXACT}
FILES = {f"{name}.{by}.onnx": bounds for name, bounds in NAMES.items() for by in ("dynamo", "script")}


def streamed(name: str, bounds: Bounds, at_once: int = 1) -> StepGraph:
    """A file without recurrent operators does not say which axis is time."""
    return loaded(name, OnnxChoices(time_axes={"x": 1})).step(at_once, 1, bounds)


@pytest.mark.parametrize(("name", "bounds"), [*FILES.items(), ("attention_encoder.dynamo.onnx", WHOLE)])
@pytest.mark.parametrize("at_once", [1, 4])
def test_what_pytorch_wrote_attends_as_pytorch_does(name: str, bounds: Bounds, at_once: int) -> None:
    graph = streamed(name, bounds, at_once)
    frames, (truth,) = expected(name)
    (found,) = stepped(graph, [frames]).values()
    delay = graph.spec().output_delays[0]
    assert delay == (FRAMES - 1 if bounds is AROUND else 0)
    np.testing.assert_allclose(found[delay:], truth[: FRAMES - delay], atol=2e-5)


def test_a_window_in_the_mask_is_the_models_own() -> None:
    assert streamed("attention_masked.script.onnx", EXACT).approximations == ()


@pytest.mark.parametrize("name", ["attention_fused.dynamo.onnx", "attention_encoder.dynamo.onnx"])
def test_without_a_window_it_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=r"all frames before it; .*--attention-window N"):
        streamed(name, EXACT)


@pytest.mark.parametrize("by", ["dynamo", "script"])
def test_absolute_places_are_refused(by: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=r"where in it a frame is; .*absolute positions"):
        loaded(f"attention_places.{by}.onnx").step()
