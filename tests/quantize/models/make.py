"""Small models exported by PyTorch: `python -m tests.quantize.models.make [NAME…]` writes the files beside this one.

The files are committed, so that most tests need no PyTorch; so is what PyTorch gives for the first stream of their
examples, in `expected.npz`. Written with PyTorch 2.13 and onnxscript 0.7.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn

from tests.quantize.models import attention

FOLDER = Path(__file__).parent
FEATURES = 6


class Recurrent(nn.Module):
    """A recurrent layer, what it gives for every frame, and a Linear."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        width = (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.layer(x)[0])


class Final(Recurrent):
    """The final state of the last layer instead of its last frame."""

    def forward(self, x: Any) -> Any:
        state = self.layer(x)[1]
        return self.head((state[0] if isinstance(state, tuple) else state)[-1])


class LastFrame(Recurrent):
    def forward(self, x: Any) -> Any:
        return self.head(self.layer(x)[0][:, -1])


class WithStates(Recurrent):
    """Final states come out too."""

    def forward(self, x: Any) -> Any:
        y, state = self.layer(x)
        return (self.head(y), *(state if isinstance(state, tuple) else (state,)))


class GivenState(nn.Module):
    """The initial state comes in, the final one goes out."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(layer.hidden_size, 3)

    def forward(self, x: Any, h0: Any) -> Any:
        y, hn = self.layer(x, h0)
        return self.head(y), hn


class GivenPair(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(layer.hidden_size, 3)

    def forward(self, x: Any, h0: Any, c0: Any) -> Any:
        y, (hn, cn) = self.layer(x, (h0, c0))
        return self.head(y), hn, cn


class BuiltState(Recurrent):
    """Zeros of the batch's size, built by hand."""

    def forward(self, x: Any) -> Any:
        zeros = torch.zeros(self.layer.num_layers, x.size(0), self.layer.hidden_size)
        return self.head(self.layer(x, zeros)[0])


class LearnedState(Recurrent):
    """An initial state that was learned, the same for every stream."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.start = nn.Parameter(torch.randn(layer.num_layers, 1, layer.hidden_size))

    def forward(self, x: Any) -> Any:
        return self.head(self.layer(x, self.start.expand(-1, x.size(0), -1).contiguous())[0])


class Channels(nn.Module):
    """Layers over (batch, channels, time), between two transpositions."""

    def __init__(self, *parts: Any) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, x: Any) -> Any:
        return self.parts(x.transpose(1, 2)).transpose(1, 2)


class Chomp(nn.Module):
    """A causal convolution, padded at both ends and cut, as temporal convolutional networks are written."""

    def __init__(self, channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.surplus = (kernel - 1) * dilation
        self.conv = nn.Conv1d(channels, channels, kernel, padding=self.surplus, dilation=dilation)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.conv(x)[:, :, : -self.surplus]) + x


class PaddedLeft(nn.Module):
    def __init__(self, conv: Any, frames: int) -> None:
        super().__init__()
        self.conv, self.frames = conv, frames

    def forward(self, x: Any) -> Any:
        return self.conv(nn.functional.pad(x, (self.frames, 0)))


class Words(nn.Module):
    """Numbers of words in, an Embedding, an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer, self.head = nn.Embedding(11, 5), nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 11)

    def forward(self, ids: Any) -> Any:
        return self.head(self.layer(self.table(ids))[0])


class Speech(nn.Module):
    """A convolutional front, BatchNorm, a GRU over frames made of channels and bands, a residual, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(FEATURES, 8, 3, stride=2), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        y = self.front(x.transpose(1, 2)).transpose(1, 2)
        return torch.log_softmax(self.head(self.norm(self.gru(y)[0] + y)), -1)


class PerFrameGroups(nn.Module):
    """GroupNorm of each frame by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.norm = nn.GRU(FEATURES, 8, batch_first=True), nn.GroupNorm(2, 8)

    def forward(self, x: Any) -> Any:
        y = self.gru(x)[0]
        return self.norm(y.reshape(-1, 8)).reshape(y.shape)


class Activations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, 8, batch_first=True)
        self.kinds = nn.ModuleList(
            [nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh(),
             nn.ELU(), nn.LeakyReLU(0.2), nn.Softplus(), nn.Tanh(), nn.Sigmoid(), nn.Mish(), nn.PReLU(), nn.ReLU6(),
             nn.Softsign()]
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        y = self.gru(x)[0]
        return torch.cat([kind(y) for kind in self.kinds], -1)


class Heads(nn.Module):
    """A gate, a reshape of the features into heads and back, a pooled summary beside the frames."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gate = nn.LSTM(FEATURES, 8, batch_first=True), nn.Linear(8, 8)

    def forward(self, x: Any) -> Any:
        y = self.lstm(x)[0]
        y = y * torch.sigmoid(self.gate(y))
        heads = y.reshape(y.shape[0], y.shape[1], 2, 4).softmax(-1)
        return heads.flatten(2), y.mean(1), y.amax(1)


def frames(*shape: int) -> Any:
    return torch.randn(*shape)


Build = Callable[[], tuple[Any, tuple[Any, ...]]]
X = (2, 20, FEATURES)


def _one(module: Callable[[], Any], *shape: int) -> Build:
    return lambda: (module(), (frames(*(shape or X)),))


def _gru(**options: Any) -> Any:
    return nn.GRU(FEATURES, 8, **{"batch_first": True, **options})


def _lstm(**options: Any) -> Any:
    return nn.LSTM(FEATURES, 8, **{"batch_first": True, **options})


def _rnn(**options: Any) -> Any:
    return nn.RNN(FEATURES, 8, **{"batch_first": True, **options})


BOTH: dict[str, Build] = {
    "lstm": _one(lambda: Recurrent(_lstm())),
    "gru": _one(lambda: Recurrent(_gru())),
    "lstm_stacked": _one(lambda: Recurrent(_lstm(num_layers=2, dropout=0.2))),
    "gru_time_first": _one(lambda: Recurrent(_gru(batch_first=False)), 20, 2, FEATURES),
    "gru_no_bias": _one(lambda: Recurrent(_gru(bias=False))),
    "lstm_bidirectional": _one(lambda: Recurrent(_lstm(bidirectional=True))),
    "gru_final": _one(lambda: Final(_gru(num_layers=2))),
    "lstm_final": _one(lambda: Final(_lstm())),
    "lstm_last_frame": _one(lambda: LastFrame(_lstm())),
    "lstm_with_states": _one(lambda: WithStates(_lstm(num_layers=2))),
    "gru_given_state": lambda: (GivenState(_gru()), (frames(*X), frames(1, 2, 8))),
    "lstm_given_pair": lambda: (GivenPair(_lstm()), (frames(*X), frames(1, 2, 8), frames(1, 2, 8))),
    "gru_built_state": _one(lambda: BuiltState(_gru())),
    "gru_learned_state": _one(lambda: LearnedState(_gru())),
    "conv_valid": _one(lambda: Channels(nn.Conv1d(FEATURES, 4, 3), nn.ReLU())),
    "conv_same": _one(lambda: Channels(nn.Conv1d(FEATURES, 4, 3, padding="same"))),
    "conv_padded": _one(lambda: Channels(nn.Conv1d(FEATURES, 4, 5, padding=2, groups=2))),
    "conv_left": _one(lambda: Channels(PaddedLeft(nn.Conv1d(FEATURES, 4, 3, dilation=2), 4))),
    "conv_stride": _one(lambda: Channels(nn.Conv1d(FEATURES, 4, 4, stride=2), nn.AvgPool1d(2), nn.ELU())),
    "conv_max_pool": _one(lambda: Channels(nn.Conv1d(FEATURES, 4, 3), nn.MaxPool1d(2))),
    "chomp": _one(lambda: Channels(Chomp(FEATURES, 3, 1), Chomp(FEATURES, 3, 2))),
    "embedding": lambda: (Words(), (torch.randint(0, 11, (2, 20)),)),
    "group_norm": _one(PerFrameGroups),
    "activations": _one(Activations),
    "heads": _one(Heads),
    "attention_fused": _one(lambda: attention.Fused(causal=True)),
    "attention_both_ways": _one(lambda: attention.Fused(causal=False)),
    "attention_masked": _one(attention.Masked),
    "attention_places": _one(attention.Places),
    "attention_pooled": _one(lambda: attention.Pooled(product=False)),
    "attention_pooled_product": _one(lambda: attention.Pooled(product=True)),
}
"""Written by both exporters, as NAME.dynamo.onnx and NAME.script.onnx."""

SCRIPT: dict[str, Build] = {
    "rnn": _one(lambda: Recurrent(_rnn())),
    "rnn_relu_stacked": _one(lambda: Recurrent(_rnn(num_layers=2, nonlinearity="relu"))),
    "gru_bidirectional": _one(lambda: Recurrent(_gru(bidirectional=True))),
    "speech": _one(Speech),  # the new exporter knows no stride over an open length
}
"""Written by the exporter from before `dynamo=True` alone."""

DYNAMO: dict[str, Build] = {"attention_encoder": _one(attention.Encoder)}  # the older one writes one length down
"""Written by the new exporter alone."""

FIXED: dict[str, Build] = {
    "lstm_fixed": _one(lambda: Recurrent(_lstm(num_layers=2)), 1, 20, FEATURES),
    "speech_fixed": _one(Speech, 1, 20, FEATURES),
}
"""Written by both, for one length."""

UNROLLED: dict[str, Build] = {"rnn_unrolled": _one(lambda: Recurrent(_rnn()), 1, 12, FEATURES)}


def randomize(module: Any, seed: int = 0) -> Any:
    """Give weights and statistics values that differ from each other, and switch training off."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.dtype.is_floating_point:
            noise = torch.randn(tensor.shape, generator=generator) * 0.4
            tensor.data = noise.abs() + 0.5 if "var" in name else noise
    return module.eval()


def export(module: Any, example: tuple[Any, ...], path: Path, dynamo: bool, dynamic: bool = True) -> None:
    """Write a module as an ONNX file, with batch and time open or for the lengths of the example."""
    names = list(module.forward.__code__.co_varnames[1 : 1 + len(example)])
    axes = {name: _open_axes(module, value) for name, value in zip(names, example, strict=True)}
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = {
                name: {axis: torch.export.Dim(size) for axis, size in open_axes.items()}
                for name, open_axes in axes.items()
            }
            torch.onnx.export(
                module, example, path, dynamo=True, input_names=names, external_data=False, verbose=False,
                dynamic_shapes=shapes if dynamic else None,
            )  # fmt: skip
        else:
            torch.onnx.export(
                module, example, path, dynamo=False, input_names=names, opset_version=17,
                dynamic_axes=axes if dynamic else None,
            )  # fmt: skip
    model = onnx.load(path)
    onnx.save(ir.to_proto(ClearMetadataAndDocStringPass()(ir.from_proto(model)).model), path)  # no traces of stacks


def _open_axes(module: Any, value: Any) -> dict[int, str]:
    if value.shape[0] == 1:  # a state
        return {1: "batch"}
    if value.shape[0] == 20:
        return {0: "time", 1: "batch"}
    return {0: "batch", 1: "time"}


def build(name: str) -> tuple[Any, tuple[Any, ...]]:
    """Return a module with its weights, and an example of its inputs."""
    torch.manual_seed(0)
    module, example = {**BOTH, **SCRIPT, **DYNAMO, **FIXED, **UNROLLED}[name]()
    return randomize(module), example


def expected(module: Any, example: tuple[Any, ...]) -> dict[str, Any]:
    """Return the first stream of an example, initial states being zero, and what PyTorch makes of it."""
    time_first = example[0].shape[0] == 20 and example[0].shape[1] == 2
    frames = example[0][:, :1] if time_first else example[0][:1]
    states = [torch.zeros_like(state[:, :1]) for state in example[1:]]
    with torch.no_grad():
        outputs = module(frames, *states)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {"input": frames.numpy(), **{f"output{number}": value.numpy() for number, value in enumerate(outputs)}}


def write_expected() -> None:
    """Write the expected outputs of every module."""
    arrays = {}
    for name in (*BOTH, *SCRIPT, *DYNAMO, *FIXED):
        arrays.update({f"{name}/{key}": array for key, array in expected(*build(name)).items()})
    np.savez_compressed(FOLDER / "expected.npz", **arrays)


def main(names: list[str]) -> None:
    write_expected()
    for table, exporters, dynamic in (
        (BOTH, ("dynamo", "script"), True), (SCRIPT, ("script",), True), (DYNAMO, ("dynamo",), True),
        (FIXED, ("dynamo", "script"), False),
        (UNROLLED, ("dynamo",), False),
    ):  # fmt: skip
        for name in table:
            for exporter in exporters if not names or name in names else ():
                module, example = build(name)
                path = FOLDER / f"{name}.{exporter}.onnx"
                try:
                    export(module, example, path, exporter == "dynamo", dynamic)
                    print(path.name, path.stat().st_size)
                except Exception as error:
                    print(path.name, "FAILED", " ".join(str(error).split())[:300])


if __name__ == "__main__":
    main(sys.argv[1:])
