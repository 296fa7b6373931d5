"""If nodes whose condition is known: the branch that is taken takes their place."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, RemoveUnusedNodesPass

from edgernn.quantize.graph import array_of, attribute
from edgernn.quantize.onnx_files.probe import Probe, Run, Shapes, independent

__all__ = ["take_branches"]

DEEPEST = 20  # an If in an If in an If


def take_branches(model: ir.Model, shapes: Shapes) -> None:
    """Put branches in the place of If nodes whose condition does not depend on what the inputs bring.

    A condition may depend on the inputs' shapes: it is what it is at `shapes`.
    """
    for _ in range(DEEPEST):
        conditional = [node for node in model.graph if node.op_type == "If"]
        run = Probe(model)(shapes) if conditional else None
        taken = [_take(model.graph, node, run, set(shapes)) for node in conditional] if run else []
        if not any(taken):
            return
        NameFixPass()(model)
        RemoveUnusedNodesPass()(model)


def _take(graph: ir.Graph, node: ir.Node, run: Run, data: set[str]) -> bool:
    condition = node.inputs[0]
    assert condition is not None
    known = condition.is_initializer() or condition.name in independent(graph, data)
    if not known or (condition.name not in run and not condition.is_initializer()):
        return False
    truth = array_of(condition) if condition.is_initializer() else run[condition.name or ""]
    branch = attribute(node, "then_branch" if truth.all() else "else_branch", None)
    for value in list(branch.initializers.values()):
        branch.initializers.pop(value.name)
        value.name = f"{node.name}/{value.name}"
        graph.register_initializer(value)
    nodes, results = list(branch), list(branch.outputs)
    branch.outputs.clear()
    branch.remove(nodes)
    graph.insert_before(node, nodes)
    for old, new in zip(node.outputs, results, strict=True):
        if old.is_graph_output():  # it keeps its name
            copy = ir.Node("", "Identity", [new], name=f"{node.name}/{old.name}")
            graph.insert_before(node, copy)
            copy.outputs[0].name, copy.outputs[0].type = old.name, old.type
            new = copy.outputs[0]
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node)
    return True
