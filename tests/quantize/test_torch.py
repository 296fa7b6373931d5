"""Random PyTorch modules, exported and stepped, against PyTorch itself on the whole sequence (`make torch`)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from edgernn.errors import UnsupportedLayerError
from edgernn.quantize.onnx_source import OnnxChoices, OnnxSource, load_onnx
from edgernn.quantize.streaming import stream
from tests.quantize.models.make import FIXED, SCRIPT, build, export, randomize
from tests.quantize.networks import Array
from tests.quantize.test_from_onnx import stepped

pytestmark = pytest.mark.torch

FEATURES = 5
Layer = tuple[str, int, int, bool]
"""Kind, units, span, and one more choice."""


class Steps(nn.Module):
    """Layers over (batch, time, features), one behind the other; a head."""

    def __init__(self, body: list[Layer], head: str, time_first: bool) -> None:
        super().__init__()
        self.kinds, self.head, self.time_first = [kind for kind, *_ in body], head, time_first
        self.parts, width = nn.ModuleList(), FEATURES
        for kind, units, span, choice in body:
            part, width = _part(kind, width, units, span, choice)
            self.parts.append(part)

    def forward(self, x: Any) -> Any:
        x = x.transpose(0, 1) if self.time_first else x
        state = x[:, -1]
        for kind, part in zip(self.kinds, self.parts, strict=True):
            if kind in RECURRENT:
                x, state = part(x)
                state = (state[0] if isinstance(state, tuple) else state)[-1]
            elif kind in OVER_TIME:
                x = part(x.transpose(1, 2)).transpose(1, 2)
            elif kind == "residual":
                x = x + part(x)[0]
            else:
                x = part(x)
        if self.head == "final":
            return state
        x = {"frames": lambda: x, "last": lambda: x[:, -1], "mean": lambda: x.mean(1)}[self.head]()
        return x.transpose(0, 1) if self.time_first and self.head == "frames" else x


RECURRENT = ("gru", "lstm", "rnn")
OVER_TIME = ("causal", "valid", "same", "strided", "batch_norm", "max_pool", "depthwise")


def _part(kind: str, width: int, units: int, span: int, choice: bool) -> tuple[Any, int]:
    """Return a layer and the features that it gives."""
    recurrent = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}
    if kind in recurrent:
        return recurrent[kind](
            width, units, num_layers=1 + choice, bias=not choice or span > 2, batch_first=True
        ), units
    if kind == "residual":
        return nn.GRU(width, width, batch_first=True), width
    pad = nn.ConstantPad1d((span - 1, 0), 0.0)
    convolutions: dict[str, Any] = {
        "causal": lambda: nn.Sequential(pad, nn.Conv1d(width, units, span)),
        "valid": lambda: nn.Conv1d(width, units, span, dilation=1 + choice),
        "same": lambda: nn.Conv1d(width, units, 3, padding=1),
        "strided": lambda: nn.Conv1d(width, units, span + 1, stride=2),
        "depthwise": lambda: nn.Sequential(pad, nn.Conv1d(width, width, span, groups=width)),
    }
    if kind in convolutions:
        return convolutions[kind](), width if kind == "depthwise" else units
    others: dict[str, Any] = {
        "batch_norm": lambda: nn.BatchNorm1d(width), "layer_norm": lambda: nn.LayerNorm(width),
        "max_pool": lambda: nn.MaxPool1d(2), "gelu": nn.GELU, "elu": nn.ELU, "dropout": lambda: nn.Dropout(0.4),
    }  # fmt: skip
    return (nn.Linear(width, units), units) if kind == "linear" else (others[kind](), width)


KINDS = (*RECURRENT, *OVER_TIME, "residual", "linear", "layer_norm", "gelu", "elu", "dropout")
LAYERS = st.tuples(st.sampled_from(KINDS), st.integers(2, 5), st.integers(1, 3), st.booleans())
RANDOM = settings(
    deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate)
)


def goes_along_time(body: list[Layer]) -> bool:
    """Tell whether some operator shows which axis is time."""
    return any(kind in (*RECURRENT, "causal", "valid", "same", "strided", "residual", "depthwise") for kind, *_ in body)


def assert_streams(module: Any, frames: Array, dynamo: bool, time_first: bool) -> None:
    """Export a module, step it through `(frames, features)`, and compare with what PyTorch gives."""
    example = torch.zeros(2, 20, FEATURES)
    x = torch.from_numpy(frames)[None]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder, "module.onnx")
        export(module, (example.transpose(0, 1) if time_first else example,), path, dynamo)
        source = load_onnx(path, OnnxChoices())
        truth = module(x.transpose(0, 1) if time_first else x).numpy()
    assert isinstance(source, OnnxSource)
    graph = stream(source.graph())
    spec = graph.spec()
    (found,), (kind,), (delay,) = stepped(graph, [frames]).values(), spec.output_kinds, spec.output_delays
    truth = truth[:, 0] if time_first and kind == "frames" else truth[0]
    if kind == "frames":
        found = found[delay:]
        assert len(found) >= len(truth) // 2
        found, truth = found[: len(truth)], truth[: len(found)]
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-4)


def frames_of(seed: int, length: int = 48) -> Array:
    return np.random.default_rng(seed).standard_normal((length, FEATURES)).astype(np.float32)


@settings(RANDOM, max_examples=30)
@given(
    st.lists(LAYERS, min_size=1, max_size=4).filter(goes_along_time),
    st.sampled_from(["frames", "last", "mean", "final"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_random_modules_stream(body: list[Layer], head: str, time_first: bool, seed: int) -> None:
    over = {kind for kind, *_ in body} & {"same", "strided", "max_pool", "valid"}
    head = "frames" if over or (head == "final" and not any(kind in RECURRENT for kind, *_ in body)) else head
    body = [layer for layer in body if layer[0] not in ("strided", "max_pool")] + [
        layer for layer in body if layer[0] in ("strided", "max_pool")
    ][:2]
    assert_streams(randomize(Steps(body, head, time_first), seed), frames_of(seed), dynamo=False, time_first=time_first)


STATIC_LENGTHS = ("rnn", "strided", "max_pool")
"""Layers that the new exporter writes for one length only."""


@settings(RANDOM, max_examples=4)
@given(st.lists(LAYERS, min_size=1, max_size=3).filter(goes_along_time), st.integers(0, 99))
def test_random_modules_stream_by_the_new_exporter(body: list[Layer], seed: int) -> None:
    body = [layer for layer in body if layer[0] not in STATIC_LENGTHS] or [("gru", 4, 1, False)]
    assert_streams(randomize(Steps(body, "frames", False), seed), frames_of(seed), dynamo=True, time_first=False)


@pytest.mark.parametrize(
    "name", ["lstm_stacked", "gru_time_first", "chomp", "embedding", "heads", "rnn", "speech_fixed"]
)
def test_the_files_are_what_this_pytorch_writes(name: str, tmp_path: Path) -> None:
    """A later PyTorch may write other nodes: what it writes must still be read."""
    module, example = build(name)
    fixed = name in FIXED
    export(module, example, tmp_path / "module.onnx", dynamo=name not in SCRIPT, dynamic=not fixed)
    source = load_onnx(tmp_path / "module.onnx", OnnxChoices())
    assert stream(source.graph()).spec().outputs


def test_an_lstm_with_a_projection_is_refused(tmp_path: Path) -> None:
    """The older exporter refuses it itself; the newer one leaves the projection out of what it writes."""
    module, path = nn.LSTM(FEATURES, 6, proj_size=3, batch_first=True), tmp_path / "module.onnx"
    example = (torch.zeros(1, 20, FEATURES),)
    with pytest.raises(torch.onnx.errors.SymbolicValueError, match="LSTMs with projections"):
        export(module, example, path, dynamo=False)
    export(module, example, path, dynamo=True)
    with pytest.raises(UnsupportedLayerError, match=r"3 values from 6 cells.*proj_size"):
        load_onnx(path, OnnxChoices())
