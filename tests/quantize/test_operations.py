"""Functions of keras.ops, values of several feature axes, layers of one's own: whole sequences and streams."""

from __future__ import annotations

import pytest

from tests.quantize.building import randomized
from tests.quantize.operation_networks import OPERATIONS
from tests.quantize.recurrent_networks import CELLS, MASKED
from tests.quantize.test_layers import assert_sequence_graph
from tests.quantize.test_streaming import assert_streams


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_sequence_graph_is_the_model_and_streams(name: str) -> None:
    model = randomized(OPERATIONS[name]())
    assert_sequence_graph(model)
    assert_streams(model)


@pytest.mark.parametrize("name", [*CELLS, *MASKED])
def test_cells_and_masks_stream(name: str) -> None:
    model = randomized({**CELLS, **MASKED}[name]())
    assert_sequence_graph(model)
    assert_streams(model, taken_apart=name in MASKED)
