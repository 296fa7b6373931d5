"""Which files may keep a step from ending, on graphs that onnx makes; no runtime is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgernn.endless import MOST_ROUNDS, unbounded
from tests.devices.conftest import MODELS, onnx_bytes

Node = onnx.NodeProto


def body(*nodes: Node) -> onnx.GraphProto:
    """Return a graph that a Loop, an If or a Scan may run, as far as its operators go."""
    return helper.make_graph([helper.make_node("Identity", ["a"], ["b"]), *nodes], "body", [], [])


def loop(rounds: str, *inside: Node) -> Node:
    return helper.make_node("Loop", [rounds, "yes", "x"], ["y"], body=body(*inside))


def scan(*inside: Node) -> Node:
    return helper.make_node("Scan", ["x"], ["y"], body=body(*inside), num_scan_inputs=1)


def choice(*inside: Node) -> Node:
    return helper.make_node("If", ["yes"], ["y"], then_branch=body(), else_branch=body(*inside))


def file(*nodes: Node, entering: tuple[str, ...] = ("x",), **constants: Any) -> bytes:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in entering]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "step", inputs, [], tensors)
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


def in_words(name: str, values: list[int]) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


BOUNDED: dict[str, bytes] = {
    "choice": file(choice(choice())),
    "scan": file(scan(), scan()),
    "loop": file(loop("n"), n=300),
    "loop in a loop": file(loop("n", choice(loop("n"))), n=256),
}
ENDLESS: dict[str, tuple[bytes, str]] = {
    "computed": (file(loop("m"), n=3), "is computed, or not said"),
    "not said": (file(loop(""), n=3), "is computed, or not said"),
    "an input": (file(loop("n"), entering=("x", "n"), n=3), "is computed, or not said"),
    "two numbers": (file(loop("n"), n=[3, 3]), "is computed, or not said"),
    "many": (file(loop("n"), n=2**62), f"{2**62:,} times"),
    "once too often": (file(loop("n", loop("m")), n=1, m=MOST_ROUNDS + 1), f"{MOST_ROUNDS + 1:,} times"),
    "loop in a loop": (file(loop("n", choice(loop("n"))), n=257), f"{257**2:,} times"),
    "scan in a scan": (file(scan(choice(scan()))), "a Scan within"),
    "scan in a loop": (file(loop("n", scan()), n=3), "a Scan within"),
    "another operator with graphs": (
        file(helper.make_node("SequenceMap", ["x"], ["y"], body=body())),
        "the operator SequenceMap, which runs graphs",
    ),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_what_always_ends_is_taken(name: str) -> None:
    assert unbounded("onnx", BOUNDED[name]) == ""


@pytest.mark.parametrize("name", ENDLESS)
def test_what_may_not_end_is_told(name: str) -> None:
    content, reason = ENDLESS[name]
    assert reason in unbounded("onnx", content)


def test_numbers_are_read_however_they_are_written() -> None:
    for rounds, taken in ((MOST_ROUNDS, True), (MOST_ROUNDS + 1, False)):
        model = onnx.load_from_string(file(loop("n")))
        model.graph.initializer.append(in_words("n", [rounds]))
        assert (unbounded("onnx", model.SerializeToString()) == "") is taken


def test_an_inner_constant_hides_an_outer_one() -> None:
    outer = choice(loop("n"))
    for branch in outer.attribute:
        branch.g.initializer.append(in_words("n", [2**40]))
    assert "1,099,511,627,776 times" in unbounded("onnx", file(outer, n=3))


def test_functions_are_refused() -> None:
    model = onnx.load_from_string(file())
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], [], []))
    assert "functions of its own" in unbounded("onnx", model.SerializeToString())


def test_graphs_without_end_are_refused() -> None:
    node = choice()
    for _ in range(25):
        node = choice(node)
    assert "nested" in unbounded("onnx", file(node))


@pytest.mark.parametrize("name", ["lstm", "delay", "hold", "energy"])
def test_sound_steps_are_taken(name: str) -> None:
    assert unbounded("onnx", onnx_bytes(name)) == ""
    assert unbounded("tflite", (MODELS / f"{name}.tflite").read_bytes()) == ""


SEEDS = [*BOUNDED.values(), (MODELS / "energy.tflite").read_bytes()]


@given(st.sampled_from(SEEDS), st.data())
def test_damage_is_a_reason_and_never_an_exception(content: bytes, data: st.DataObject) -> None:
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)))])
    for place in data.draw(st.lists(st.integers(0, max(len(damaged) - 1, 0)), max_size=3)) if damaged else ():
        damaged[place] = data.draw(st.integers(0, 255))
    for kind in ("onnx", "tflite"):
        assert isinstance(unbounded(kind, bytes(damaged)), str)
