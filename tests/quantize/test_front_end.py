"""The front end inside the model gives the frames of the core's, however the sound is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from keras import layers

from edgernn.artifact import ModelFile
from edgernn.devices.runner import open_model
from edgernn.errors import UsageError
from edgernn.frontend import LogMel, log_mel, mel_filters
from edgernn.quantize.calibrate import observe
from edgernn.quantize.cells import decompose_cells
from edgernn.quantize.examples import Streams
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.front_end import embed_front_end
from edgernn.quantize.graph import Builder
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.simplify import simplify
from edgernn.quantize.stepping import Invoke, invoke_onnx, invoke_tflite, steps
from edgernn.quantize.streaming import StepGraph, stream
from edgernn.quantize.to_onnx import to_onnx
from edgernn.quantize.to_tflite import plain_tflite, quantized_tflite
from edgernn.spec import StreamSpec
from edgernn.stream import FrameStream
from tests.quantize.networks import FEATURES, Array, chain, randomized

FRONT_ENDS = {
    "usual": LogMel(),
    "normalized": LogMel(mean=tuple(np.linspace(-8, -3, 40)), std=tuple(np.linspace(1, 3, 40))),
    "odd window": LogMel(8000, 201, 80, 256, bands=20, high_hz=3800.0),
    "odd spectrum": LogMel(8000, 200, 80, 255, bands=20, high_hz=3800.0),
    "no overlap": LogMel(8000, 200, 200, 256, bands=20, high_hz=3800.0),
    "whole hops": LogMel(8000, 240, 80, 256, bands=20, high_hz=3800.0),
    "up to half the rate": LogMel(8000, 256, 64, 256, bands=20, low_hz=0.0, high_hz=4000.0),
}


def sound(samples: int, seed: int = 0) -> Array:
    """Noise, now loud and now so quiet that the floor hides it, with silence and a tone in between."""
    random = np.random.default_rng(seed)
    loudness = np.repeat(10 ** random.uniform(-5, -0.3, -(-samples // 500)), 500)[:samples]
    result = random.standard_normal(samples) * loudness
    result[samples // 3 : samples // 2] = 0
    result[samples // 2 :: 2] += 0.2
    return result.astype(np.float32)


def assert_same_frames(found: Array, expected: Array) -> None:
    """Within the rounding of float32, which a loud tone puts into a band a million times quieter, too."""
    error = np.abs(found - expected[: len(found)])
    assert error.mean() < 1e-5
    assert error.max() < 1e-3


def alone(params: LogMel) -> ir.Model:
    """Return the front end without a model behind it."""
    builder = Builder("nothing")
    builder.output(builder.op("Identity", builder.input("frames", ["batch", "time", params.bands])), "y")
    return embed_front_end(builder.finish(), params)


def frames_of(step: StepGraph, samples: Array) -> Array:
    model, spec = simplify(step.model), step.spec()
    taken = steps(invoke_onnx(ir.to_proto(model).SerializeToString()), spec, [samples])
    return np.concatenate([item["y"].reshape(-1, item["y"].shape[-1]) for item in taken])[spec.output_delays[0] :]


@pytest.mark.parametrize("hops", [1, 3])
@pytest.mark.parametrize("name", FRONT_ENDS)
def test_frames_are_those_of_the_front_end(name: str, hops: int) -> None:
    params = FRONT_ENDS[name]
    samples = sound(60 * params.hop_samples)
    found = frames_of(stream(alone(params), frames_per_step=hops * params.hop_samples), samples)
    expected = log_mel(samples, params)
    assert len(expected) - len(found) < hops + 1
    assert_same_frames(found, expected)


def test_frames_are_as_exact_as_the_front_ends() -> None:
    """Beside the formula in double precision."""
    params = LogMel()
    samples = sound(40 * params.hop_samples)
    starts = range(0, len(samples) - params.window_samples + 1, params.hop_samples)
    tapered = [samples[start : start + 400] * np.hanning(401)[:-1].astype(np.float64) for start in starts]
    power = np.abs(np.fft.rfft(tapered, 512)) ** 2
    truth = np.log(np.maximum(power @ mel_filters(params).astype(np.float64), params.floor))
    found = frames_of(stream(alone(params)), samples)
    theirs = np.abs(log_mel(samples, params) - truth).max()
    assert np.abs(found - truth[: len(found)]).max() < 5 * theirs


@pytest.mark.parametrize("batch", [1, 2])
def test_sound_in_any_cut_goes_through_the_runner(batch: int, tmp_path: Path) -> None:
    params = FRONT_ENDS["usual"]
    step = stream(alone(params), batch=batch)
    content = ir.to_proto(simplify(step.model)).SerializeToString()
    path = tmp_path / "step.onnx"
    path.write_bytes(content)
    runner = open_model(ModelFile("onnx", path, "float32", step.spec(), len(content)))
    assert runner.spec.inputs[0].step_shape == ((160,) if batch == 1 else (batch, 160))
    if batch > 1:
        return
    samples, frames = sound(9000), FrameStream(runner)
    cuts = np.sort(np.random.default_rng(1).integers(0, len(samples), 40))
    found = np.concatenate([frames.push(piece)[0] for piece in np.split(samples, cuts)])
    assert_same_frames(found, log_mel(samples, params))


SHOWN = replace(FRONT_ENDS["whole hops"], bands=FEATURES)


def shown() -> StepGraph:
    """Return the step of a model with its front end inside, whose second output, "y", has the frames."""
    sequence = embed_front_end(from_keras(randomized(chain(layers.GRU(24, return_sequences=True)))), SHOWN)
    frames = next(node.outputs[0] for node in sequence.graph if node.op_type == "Log")
    frames.name = "y"
    sequence.graph.outputs.append(frames)
    step = stream(sequence)
    return replace(step, model=simplify(step.model))


def assert_frames_in_float(invoke: Invoke, spec: StreamSpec) -> None:
    samples = sound(60 * SHOWN.hop_samples)
    taken = [item["y"][0] for item in steps(invoke, spec, [samples])]
    assert_same_frames(np.concatenate(taken)[spec.output_delays[1] :], log_mel(samples, SHOWN))


@pytest.mark.parametrize("scheme", [scheme.name for scheme in SCHEMES.values() if "onnx" in scheme.formats])
def test_the_front_end_stays_in_float(scheme: str) -> None:
    kept = shown()
    taken_apart = replace(kept, model=simplify(decompose_cells(kept.model)))
    ranges = observe(taken_apart, [[sound(60 * SHOWN.hop_samples)]])
    content, spec = to_onnx(kept, taken_apart, kept.spec(), SCHEMES[scheme], ranges)
    assert_frames_in_float(invoke_onnx(content), spec)


@pytest.mark.slow
def test_the_front_end_stays_in_float_in_tflite() -> None:
    plain = plain_tflite(shown())
    streams: Streams = [(sound(60 * SHOWN.hop_samples),)]
    for scheme in (scheme for scheme in SCHEMES.values() if "tflite" in scheme.formats):
        content, spec = quantized_tflite(*plain, scheme, streams)
        assert_frames_in_float(invoke_tflite(content), spec)
        assert scheme.name == "float32" or len(content) < len(plain[0]), "and the rest does not"


def test_a_model_of_other_frames_is_refused() -> None:
    with pytest.raises(UsageError, match="frames of 40 bands, and the model takes frames"):
        embed_front_end(from_keras(chain(layers.Dense(2))), LogMel())
