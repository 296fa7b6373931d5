"""The stream contract of random PyTorch modules, exported and converted, with PyTorch for an oracle (`make torch`)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgernn.quantize.graph import ONE_STREAM
from edgernn.quantize.onnx_source import OnnxChoices, OnnxSource, load_onnx
from edgernn.testing import Whole
from tests.quantize.models.make import export, randomize
from tests.quantize.test_random_networks import check_source
from tests.quantize.test_torch import FEATURES, LAYERS, RANDOM, Layer, Steps, goes_along_time

pytestmark = pytest.mark.torch

BODIES = st.lists(LAYERS, min_size=1, max_size=3).filter(goes_along_time)


def oracle(module: Any) -> Whole:
    def whole(*inputs: Any) -> list[Any]:
        with torch.no_grad():
            return [module(*(torch.from_numpy(array)[None] for array in inputs)).numpy()[0]]

    return whole


def check(body: list[Layer], head: str, scheme: str, batch: int, factor: int) -> None:
    """Export a module, and check the contract of its ONNX file: cuts, streams, resets, restores."""
    module = randomize(Steps(body, head, time_first=False), 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "module.onnx")
        export(module, (torch.zeros(2, 20, FEATURES),), path, dynamo=False)
        source = load_onnx(path, OnnxChoices())
    assert isinstance(source, OnnxSource)
    batch = 1 if ONE_STREAM in source.graph().metadata_props else batch
    check_source(source, oracle(module), "onnx", scheme, batch, factor)


@pytest.mark.parametrize(("scheme", "examples"), [("float32", 20), ("dynamic-int8", 8), ("int8", 8)])
def test_random_modules_keep_the_contract(scheme: str, examples: int) -> None:
    @settings(RANDOM, max_examples=examples)
    @given(BODIES, st.integers(1, 3), st.integers(1, 2))
    def checked(body: list[Layer], batch: int, factor: int) -> None:
        check(body, "frames", scheme, batch, factor)

    checked()


@settings(RANDOM, max_examples=6)
@given(st.sampled_from(["last", "mean", "final"]), st.integers(1, 3))
def test_summaries_keep_the_contract(head: str, batch: int) -> None:
    check([("causal", 4, 3, False), ("gru", 5, 2, True)], head, "float32", batch, 1)
