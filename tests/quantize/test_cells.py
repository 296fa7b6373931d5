"""Recurrent operators as plain operations, against ONNX' reference and ONNX Runtime; gate orders against Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import onnx_ir as ir
import pytest

from edgernn.errors import ConversionError
from edgernn.quantize.cells import Activation, activation_attributes, decompose_cells
from edgernn.quantize.graph import Builder
from edgernn.quantize.layers.recurrent import GATE_ORDER
from edgernn.quantize.stepping import invoke_onnx
from tests.quantize.building import Array, randomized, reference

FEATURES, UNITS = 5, 4
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {"LSTM": ("h", "c"), "GRU": ("h",), "RNN": ("h",)}


def operator(
    op_type: str,
    frames: int = 1,
    functions: list[Activation] | None = None,
    bias: bool = True,
    **attributes: int | float,
) -> ir.Model:
    """Return a step graph of one operator with random weights."""
    random = np.random.default_rng(0)

    def weights(*shape: int) -> Array:
        return random.normal(0, 0.6, shape).astype(np.float32)

    builder, gates = Builder(op_type), GATES[op_type]
    x = builder.input("x", (frames, 1, FEATURES))
    states = [builder.input(name, (1, 1, UNITS)) for name in STATES[op_type]]
    constants = [
        builder.constant(weights(1, gates * UNITS, FEATURES), "W"),
        builder.constant(weights(1, gates * UNITS, UNITS), "R"),
        builder.constant(weights(1, 2 * gates * UNITS), "B") if bias else None,
    ]
    named = activation_attributes(functions) if functions else {}
    outputs = builder.ops(
        op_type, [x, *constants, None, *states], 1 + len(states), {"hidden_size": UNITS, **named, **attributes}
    )
    for value, name in zip(outputs, ("every", *(f"{state}_out" for state in STATES[op_type])), strict=True):
        builder.output(value, name)
    return builder.finish()


def values_for(model: ir.Model) -> dict[str, Array]:
    random = np.random.default_rng(1)
    shapes = {
        item.name or "": [size for size in item.shape or () if isinstance(size, int)] for item in model.graph.inputs
    }
    return {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def assert_same(op_type: str, expected: list[Array], model: ir.Model) -> None:
    for rolled in (False, True):
        apart = decompose_cells(model, rolled=rolled)
        assert not {node.op_type for node in apart.graph.all_nodes()} & set(GATES), "it is taken apart"
        assert [value.name for value in apart.graph.outputs] == [value.name for value in model.graph.outputs]
        run = invoke_onnx(ir.to_proto(apart).SerializeToString()) if rolled else None  # the reference has no such Scan
        found = list(run(values_for(model)).values()) if run else reference(apart, values_for(model))
        for truth, result in zip(expected, found, strict=True):
            assert result.shape == truth.shape
            np.testing.assert_allclose(result, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [("LSTM", {}), ("GRU", {"linear_before_reset": 0}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})],
)
def test_plain_operations_are_the_operator(op_type: str, attributes: dict[str, Any], bias: bool, frames: int) -> None:
    model = operator(op_type, frames, bias=bias, **attributes)
    assert_same(op_type, reference(model, values_for(model)), model)


PARAMETERS: dict[str, dict[str, float]] = {
    "Elu": {"alpha": 0.7},
    "HardSigmoid": {"alpha": 0.15, "beta": 0.4},
    "LeakyRelu": {"alpha": 0.3},
    "Relu": {},
    "Sigmoid": {},
    "Softplus": {},
    "Softsign": {},
    "Tanh": {},
    "ThresholdedRelu": {"alpha": 0.2},
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_activation_keeps_its_parameters(name: str) -> None:
    """ONNX Runtime is the oracle here: onnx.reference knows the default activations only."""
    model = operator("RNN", 3, [(name, PARAMETERS[name])])
    fed = values_for(model)
    assert_same("RNN", list(invoke_onnx(ir.to_proto(model).SerializeToString())(fed).values()), model)


def test_parameters_go_to_the_activation_that_has_them() -> None:
    functions: list[Activation] = [
        ("HardSigmoid", {"alpha": 0.15, "beta": 0.4}), ("Tanh", {}), ("Elu", {"alpha": 0.5}),
    ]  # fmt: skip
    model = operator("LSTM", 2, functions)
    assert_same("LSTM", list(invoke_onnx(ir.to_proto(model).SerializeToString())(values_for(model)).values()), model)


def test_activations_without_parameters_have_the_defaults_of_onnx() -> None:
    given = operator("RNN", 2, [("HardSigmoid", {"alpha": 0.2, "beta": 0.5})])
    bare = operator("RNN", 2, [("HardSigmoid", {})])
    outputs = [reference(decompose_cells(model), values_for(given)) for model in (given, bare)]
    np.testing.assert_array_equal(outputs[0][0], outputs[1][0])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (operator("GRU", clip=3.0), "clip"),
        (operator("LSTM", input_forget=1), "input_forget"),
        (operator("RNN", functions=[("Affine", {"alpha": 2.0, "beta": 0.5})]), "Affine"),
    ],
)
def test_what_plain_operations_do_not_have_is_refused(model: ir.Model, reason: str) -> None:
    with pytest.raises(ConversionError, match=reason):
        decompose_cells(model)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)), np.float32)


def keras_outputs_and_gates(
    layer: keras.Layer, op_type: str, letters: str
) -> tuple[Array, Array, dict[str, list[Array]]]:
    """Return frames, what Keras makes of them, and per ONNX gate Keras' kernel, recurrent kernel and bias."""
    model = randomized(keras.Sequential([keras.Input((3, FEATURES)), layer]))
    x = np.random.default_rng(2).normal(size=(3, FEATURES)).astype(np.float32)
    parts = [np.split(weights, len(letters), axis=-1) for weights in layer.get_weights()]
    gates = {letter: [part[GATE_ORDER[op_type][place]] for part in parts] for place, letter in enumerate(letters)}
    return x, np.asarray(model(x[None]))[0], gates


def test_gate_order_of_lstm() -> None:
    x, expected, gates = keras_outputs_and_gates(keras.layers.LSTM(UNITS), "LSTM", "iofc")
    h = c = np.zeros(UNITS, np.float32)
    for frame in x:
        i, o, f, g = (frame @ kernel + h @ recurrent + bias for kernel, recurrent, bias in gates.values())
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    np.testing.assert_allclose(h, expected, atol=1e-5)


@pytest.mark.parametrize("reset_after", [False, True])
def test_gate_order_of_gru(reset_after: bool) -> None:
    x, expected, gates = keras_outputs_and_gates(keras.layers.GRU(UNITS, reset_after=reset_after), "GRU", "zrh")
    h = np.zeros(UNITS, np.float32)
    for frame in x:
        inner, outer = {}, {}
        for letter, (kernel, recurrent, bias) in gates.items():
            first, second = np.atleast_2d(bias) if reset_after else (bias, np.zeros_like(bias))
            inner[letter], outer[letter] = frame @ kernel + first, (recurrent, second)
        z, r = (sigmoid(inner[letter] + h @ outer[letter][0] + outer[letter][1]) for letter in "zr")
        recurrent, bias = outer["h"]
        candidate = np.tanh(inner["h"] + (r * (h @ recurrent + bias) if reset_after else (r * h) @ recurrent))
        h = z * h + (1 - z) * candidate
    np.testing.assert_allclose(h, expected, atol=1e-5)
