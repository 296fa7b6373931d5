"""The front end as a part of the model: framing, spectrum, mel filter and logarithm in standard ONNX operators.

So the artifact takes samples, and any program can run it without a front end of its own. Its frames are those of
`edgernn.frontend` within the rounding of float32.

The spectrum is a product with cosines and sines, of a quarter of the size that it has at first sight: the window is
even around its centre, so that its real part needs only the sum of samples mirrored there, and its imaginary part the
difference; and bins `k` and `N/2 - k` differ only in the sign of what every other sample adds. (Both are the usual
symmetries of the discrete Fourier transform, Oppenheim and Schafer 1975, sections 3.6 and 6.2.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.errors import UsageError
from edgernn.frontend import LogMel, mel_filters, taper
from edgernn.quantize.graph import Builder, array_of, scope_of
from edgernn.quantize.products import FRONT_END

__all__ = ["embed_front_end"]

Floats = NDArray[np.float64]


def embed_front_end(sequence: ir.Model, params: LogMel) -> ir.Model:
    """Return the sequence graph behind its front end: its one input is `samples`, `(batch, time)`, full scale at ±1.

    Raises `UsageError` where the model does not take the frames of this front end.
    """
    inputs = sequence.graph.inputs
    if len(inputs) != 1 or list(inputs[0].shape or ())[2:] != [params.bands]:
        found = ", ".join(f"{value.name} {value.shape}" for value in inputs)
        raise UsageError(f"the front end gives frames of {params.bands} bands, and the model takes {found}")
    graph = Builder(sequence.graph.name or "sequence")
    samples = graph.input("samples", ["batch", "time"])
    graph.scope = FRONT_END
    mapped: dict[ir.Value | None, ir.Value | None] = {None: None, inputs[0]: _log_mel(samples, params, graph)}
    for value in sequence.graph.initializers.values():
        graph.scope = ""
        mapped[value] = graph.constant(array_of(value), value.name or "constant")
    for node in sequence.graph:
        graph.scope = scope_of(node)
        mapped.update(zip(node.outputs, graph.copy(node, [mapped[value] for value in node.inputs]), strict=True))
    for value in sequence.graph.outputs:
        result = mapped[value]
        assert result is not None
        graph.output(result, value.name or "output")
    return graph.finish()


def _log_mel(samples: ir.Value, params: LogMel, graph: Builder) -> ir.Value:
    """Samples `(batch, time)` to frames `(batch, time / hop, bands)`."""
    mel = mel_filters(params)
    windows = _windows(samples, params, graph)
    even = params.window_samples % 2 == 0 and params.fft_size % 2 == 0
    real, imaginary, bins = (_quarters if even else _plainly)(windows, mel, params, graph)
    power = graph.op("Add", graph.op("Mul", real, real), graph.op("Mul", imaginary, imaginary))
    bands = graph.op("MatMul", power, graph.constant(bins, "mel"))
    logarithm = graph.op("Log", graph.op("Max", bands, graph.constant(params.floor, "floor")))
    if params.mean:
        logarithm = graph.op("Sub", logarithm, graph.constant(np.array(params.mean, np.float32), "mean"))
    if params.std:
        logarithm = graph.op("Mul", logarithm, graph.constant((1 / np.array(params.std)).astype(np.float32), "scale"))
    return logarithm


def _windows(samples: ir.Value, params: LogMel, graph: Builder) -> ir.Value:
    """Return the windows `(batch, frames, window_samples)`: each is a few hops side by side."""
    window, hop = params.window_samples, params.hop_samples
    count = -(-window // hop)
    hops = graph.op("Reshape", samples, graph.constant([0, -1, hop], "hops"))
    parts = []
    for number in range(count):
        wanted = min(hop, window - number * hop)
        stop = number - count + 1 or np.iinfo(np.int64).max
        bounds = ([number, 0], [stop, wanted], [1, 2])
        parts.append(graph.op("Slice", hops, *(graph.constant(np.array(bound), "bound") for bound in bounds)))
    return parts[0] if count == 1 else graph.op("Concat", *parts, axis=2)


Spectrum = tuple[ir.Value, ir.Value, NDArray[np.float32]]
"""Real and imaginary part of some bins, and the mel filter over these bins."""


def _plainly(windows: ir.Value, mel: NDArray[np.float32], params: LogMel, graph: Builder) -> Spectrum:
    """Each bin that the filter needs as a product of its own."""
    bins = np.flatnonzero(mel.any(axis=1))
    angles = 2 * np.pi / params.fft_size * np.outer(np.arange(params.window_samples), bins)
    weights = taper(params)[:, None]
    real, imaginary = (_product(windows, weights * wave(angles), graph) for wave in (np.cos, np.sin))
    return real, imaginary, mel[bins]


def _quarters(windows: ir.Value, mel: NDArray[np.float32], params: LogMel, graph: Builder) -> Spectrum:
    """Mirrored samples together, and bins `k` and `N/2 - k` out of the same four products."""
    half, quarter = params.window_samples // 2, params.fft_size // 4
    apart = np.concatenate([np.arange(0, half, 2), np.arange(1, half, 2)])  # distances from the centre: even, then odd
    evens = -(-half // 2)
    places = graph.constant(np.concatenate([half + apart, half - apart]), "mirror")
    mirrored = graph.op("Gather", windows, places, axis=2)
    later, earlier = _split(mirrored, (half, half), graph)
    low = np.arange(quarter + 1)
    low = low[mel[low].any(axis=1) | mel[params.fft_size // 2 - low].any(axis=1)]
    angles = 2 * np.pi / params.fft_size * np.outer(apart, low)
    weights = taper(params)[half + apart, None]
    weights[0] /= 2  # the sample in the centre is its own mirror image
    parts = []
    for op_type, wave in (("Add", np.cos), ("Sub", np.sin)):
        matrix = weights * wave(angles)
        sides = _split(graph.op(op_type, later, earlier), (evens, half - evens), graph)
        one, other = (_product(side, rows, graph) for side, rows in zip(sides, np.split(matrix, [evens]), strict=True))
        parts.append(graph.op("Concat", graph.op("Add", one, other), graph.op("Sub", one, other), axis=2))
    high = mel[params.fft_size // 2 - low]
    high[params.fft_size // 2 == 2 * low] = 0  # the middle one is there once
    return parts[0], parts[1], np.concatenate([mel[low], high])


def _split(value: ir.Value, sizes: Sequence[int], graph: Builder) -> Sequence[ir.Value]:
    return graph.ops("Split", [value, graph.constant(np.array(sizes, np.int64), "sizes")], len(sizes), {"axis": 2})


def _product(value: ir.Value, matrix: Floats, graph: Builder) -> ir.Value:
    return graph.op("MatMul", value, graph.constant(np.ascontiguousarray(matrix, np.float32), "spectrum"))
