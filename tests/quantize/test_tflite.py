"""TFLite files of every scheme, stepped against Keras; and what becomes of a converter that dies, hangs or refuses."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import keras
import numpy as np
import onnx_ir as ir
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from edgernn.errors import ConversionError
from edgernn.quantize import to_tflite as subject
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.graph import Builder
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.simplify import simplify
from edgernn.quantize.stepping import invoke_tflite, steps
from edgernn.quantize.streaming import StepGraph, stream
from edgernn.spec import QuantParams, StreamSpec
from tests.quantize.lowering import lowered, snr_db
from tests.quantize.networks import chain, keras_outputs, randomized, streams_for
from tests.quantize.pointwise_networks import ACTIVATIONS
from tests.quantize.tflite_files import one_operator

LEAST_DB = {"float32": 100, "float16": 50, "dynamic-int8": 35, "int8": 31, "int4": 18}


@cache
def converted(name: str, scheme: str) -> tuple[bytes, StreamSpec]:
    return lowered(name).tflite(scheme)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", LEAST_DB)
@pytest.mark.parametrize("name", ["lstm", "gru", "crnn", "delayed"])
def test_every_scheme_of_every_network(name: str, scheme: str) -> None:
    content, spec = converted(name, scheme)
    assert snr_db(name, content, "tflite", spec) > LEAST_DB[scheme]
    assert_signature(content, spec)
    assert_states(name, spec, scheme)


def assert_signature(content: bytes, spec: StreamSpec) -> None:
    """The file calls its tensors what the spec calls them, and gives them these shapes and dtypes."""
    runner = Interpreter(model_content=content).get_signature_runner()
    entering, leaving = runner.get_input_details(), runner.get_output_details()
    expected_in = {item.name: item for item in spec.inputs} | {item.input: item for item in spec.states}
    expected_out = {item.name: item for item in spec.outputs} | {item.output: item for item in spec.states}
    for details, expected in ((entering, expected_in), (leaving, expected_out)):
        assert set(details) == set(expected)
        for name, item in expected.items():
            assert tuple(details[name]["shape"]) == item.shape
            assert details[name]["dtype"].__name__ == item.dtype
            scale, zero = details[name]["quantization"]
            assert (QuantParams(scale, zero) if scale else None) == item.quant


def assert_states(name: str, spec: StreamSpec, scheme: str) -> None:
    """In int8, windows of what quantized convolutions read are int8; frames and outputs are float in every scheme."""
    assert {item.dtype for item in (*spec.inputs, *spec.outputs)} == {"float32"}
    for state in spec.states:
        integer = scheme == "int8" and state.name in ("conv1d.past", "lstm.delay")
        assert state.dtype == ("int8" if integer else "float32"), state.name
        if state.quant is not None:
            np.testing.assert_array_equal(state.quant.dequantize(state.initial_array()), state.initial)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_files_shrink(name: str) -> None:
    size = {scheme: len(converted(name, scheme)[0]) for scheme in LEAST_DB}
    assert size["float16"] < 0.65 * size["float32"]
    assert size["dynamic-int8"] <= size["int8"] < 0.52 * size["float32"], "each channel's scale takes 12 bytes"
    assert size["int4"] < 0.75 * size["dynamic-int8"] or name == "gru"


@pytest.mark.slow
def test_a_window_carries_its_past_bit_for_bit() -> None:
    content, spec = converted("delayed", "int8")
    random = np.random.default_rng(3)
    state = {item.input: random.integers(-128, 128, item.shape).astype(item.dtype) for item in spec.states}
    fed = {item.name: random.standard_normal(item.shape).astype(np.float32) for item in spec.inputs}
    result = invoke_tflite(content)({**fed, **state})
    moved = 0
    for item in spec.states:
        kept = item.shape[1] - spec.frames_per_step if item.name.endswith((".past", ".delay")) else 0
        if kept > 0:
            np.testing.assert_array_equal(result[item.output][:, :kept], state[item.input][:, -kept:])
            moved += kept
    assert moved, "no past is longer than a step: this would show nothing"


@pytest.mark.slow
def test_every_activation_has_a_form_in_tflite() -> None:
    """One network of them all, because a conversion takes seconds: each reads the input, all are outputs."""
    first = keras.Input((None, 6), name="frames")
    model = keras.Model(first, [layers.Activation(name, name=name)(first) for name in ACTIVATIONS])
    step = stream(from_keras(model))
    kept = replace(step, model=simplify(step.model))
    content, spec = subject.to_tflite(kept, SCHEMES["float32"])
    streams = [array * 2 for array in streams_for(model)]
    taken = list(steps(invoke_tflite(content), spec, streams))
    for name, truth in zip(ACTIVATIONS, keras_outputs(model, [streams[0][None]]), strict=True):
        found = np.concatenate([step[name][0] for step in taken])
        np.testing.assert_allclose(found, truth[0], rtol=1e-5, atol=1e-5, err_msg=name)


# the child process


def small_step() -> StepGraph:
    return stream(from_keras(randomized(chain(layers.Dense(2)))))


def instead_of_python(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shell script be the interpreter that the converter runs in."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


TRACEBACK = """\
W0000 something about the machine
Traceback (most recent call last):
  File "converter.py", line 1, in convert
RuntimeError: /sharding/pass.cc:12:0: error: 'tfl.while' op is not what it was
"""


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("kill -SEGV $$", f"crashed (signal {int(signal.SIGSEGV)}); try another --quantize, or --to onnx"),
        ("kill -KILL $$", f"crashed (signal {int(signal.SIGKILL)})"),
        ("exec sleep 60", "did not end within 0.3 s and was stopped; try --to onnx"),
        (f"cat >&2 <<'END'\n{TRACEBACK}END\nexit 1", "refused this model: RuntimeError: /sharding/pass.cc:12:0"),
        (
            "echo 'lstm: the operator Foo has no form in TFLite' >&2; exit 1",
            "refused this model: lstm: the operator Foo",
        ),
        ("exit 3", "it gave no reason"),
        ("exit 0", "wrote no file"),
    ],
)
def test_whatever_happens_to_the_converter_is_one_clear_line(
    script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_python(script, tmp_path, monkeypatch)
    monkeypatch.setattr(subject, "PATIENCE_S", 0.3)
    with pytest.raises(ConversionError) as failure:
        subject.to_tflite(small_step(), SCHEMES["float32"])
    assert reason in str(failure.value)
    assert "\n" not in str(failure.value)
    assert len(str(failure.value)) < 600


def test_a_state_of_two_scales_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    step = stream(from_keras(randomized(chain(layers.SimpleRNN(2)))))
    spec = step.spec()
    names = [*(item.name for item in spec.inputs), *(item.name for item in spec.outputs)]
    entering = dict.fromkeys([*names, spec.states[0].input], ("int8", QuantParams(0.5)))
    leaving = {**dict.fromkeys(names, ("int8", QuantParams(0.5))), spec.states[0].output: ("int8", QuantParams(0.25))}
    monkeypatch.setattr(
        subject, "_run_child", lambda arguments: Path(arguments[1]).write_bytes(one_operator("TANH", 1))
    )
    monkeypatch.setattr(subject, "_signature", lambda content: (entering, leaving))
    with pytest.raises(ConversionError, match=r"the state simple_rnn.*\.h two formats.*0\.5.*0\.25"):
        subject.to_tflite(step, SCHEMES["float32"])


@pytest.mark.slow
def test_an_operator_that_tflite_does_not_have_is_refused_by_name() -> None:
    builder = Builder("step")
    builder.scope = "squash"
    builder.output(builder.op("ThresholdedRelu", builder.input("x", ["batch", "time", 4])), "y")
    step = stream(builder.finish())
    assert isinstance(step.model, ir.Model)
    with pytest.raises(ConversionError, match=r"squash.*ThresholdedRelu has no form in TFLite; use --to onnx"):
        subject.to_tflite(step, SCHEMES["float32"])
