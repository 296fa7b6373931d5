"""Every layer and option, emitted and run by ONNX' reference evaluator, against Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import onnx_ir as ir
import pytest

from edgernn.quantize.cells import DEFAULTS
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.graph import attribute
from edgernn.quantize.stepping import invoke_onnx
from tests.quantize.networks import LAYERS, NETWORKS, Array, keras_outputs, randomized, reference, streams_for
from tests.quantize.pointwise_networks import ACTIVATIONS


def in_reach_of_the_reference(graph: ir.Model) -> bool:
    """Whether onnx.reference computes this graph: its recurrent operators have ONNX' default activations only."""
    return all(
        tuple(attribute(node, "activations", DEFAULTS[node.op_type])) == DEFAULTS[node.op_type]
        for node in graph.graph
        if node.op_type in DEFAULTS
    )


def evaluate(graph: ir.Model, batches: list[Array]) -> list[Array]:
    proto = ir.to_proto(graph)
    fed = {item.name: array for item, array in zip(proto.graph.input, batches, strict=True)}
    if in_reach_of_the_reference(graph):
        return reference(graph, fed)
    return list(invoke_onnx(proto.SerializeToString())(fed).values())


def batches_for(model: Any) -> list[Array]:
    """Two sequences for every input, or one where the model is made for one."""
    count = model.inputs[0].shape[0] or 2
    batches = [streams_for(model, length=23, seed=seed) for seed in range(count)]
    return [np.stack(arrays) for arrays in zip(*batches, strict=True)]


@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_the_sequence_graph_is_the_model(name: str) -> None:
    assert_sequence_graph(randomized({**LAYERS, **NETWORKS}[name]()))


def assert_sequence_graph(model: Any) -> None:
    """Compare what ONNX makes of whole sequences with what Keras makes of them."""
    batches = batches_for(model)
    expected = keras_outputs(model, batches)
    found = evaluate(from_keras(model), batches)
    assert len(found) == len(expected)
    for truth, result in zip(expected, found, strict=True):
        assert truth.std() > 1e-3, "this network would not show a mistake"
        assert result.shape == truth.shape
        np.testing.assert_allclose(result, truth, rtol=2e-5, atol=2e-5)


def test_every_activation_of_keras_is_tested() -> None:
    """But `threshold`, which takes more than a tensor, and `sparsemax`, which is refused."""
    named = {name for name, item in vars(keras.activations).items() if callable(item)}
    aliases = {"deserialize", "get", "serialize", "hard_swish", "swish"}
    assert sorted(named - aliases - {"sparsemax", "threshold"}) == sorted(ACTIVATIONS)
