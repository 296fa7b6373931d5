"""Products: Dense, EinsumDense, matrix products and sums of products of Einstein's notation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.from_keras import Call, Emitter, emits, refuse
from edgernn.quantize.layer_call import Tensor
from edgernn.quantize.layers.activation import activate

__all__: list[str] = []


@emits("Dense")
def _dense(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    weights = layer.get_weights()
    value = graph.op("MatMul", inputs[0], graph.constant(weights[0], "kernel"))
    if layer.use_bias:
        value = graph.op("Add", value, graph.constant(weights[1], "bias"))
    return activate(layer, value, graph)


@emits("Matmul", "Dot", of="ops")
def _matmul(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    right = call.args[1]
    rank = len(right.shape) if isinstance(right, Tensor) else np.ndim(right)
    if rank == 1 and not isinstance(right, Tensor):
        column = graph.constant(np.asarray(right, np.float32)[:, None], "column")
        return graph.op("Squeeze", graph.op("MatMul", call[0], column), graph.constant([-1], "axis"))
    if rank == 1 or (rank > 2 and type(operation).__name__ == "Dot"):
        raise refuse(operation, f"a product with a value of {rank} axes", "use keras.ops.matmul with matrices")
    left = call.args[0]
    if isinstance(right, Tensor) and (rank == 2 or (isinstance(left, Tensor) and len(left.shape) != rank)):
        raise refuse(operation, "it multiplies along the batch", "give both operands the same axes, the batch first")
    return graph.op("MatMul", *call.operands(graph))


@emits("Einsum", of="ops")
def _einsum(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    """One value and constants: the constants become one matrix. Two values: a product of matrices, frame by frame."""
    inputs, output = _subscripts(operation, call)
    operands = list(zip(inputs, call.args, strict=True))
    if len(operands) != 2:
        raise refuse(operation, f"a sum of products of {len(operands)} operands", "multiply two at a time")
    (left, x), (right, y) = operands
    if any(row[:1] != output[:1] if isinstance(value, Tensor) else output[:1] in row for row, value in operands):
        raise refuse(operation, "it sums over the batch, or moves it", "begin with the batch: 'bij,bjk->bik'")
    if not isinstance(x, Tensor):
        (left, x), (right, y) = (right, y), (left, x)
    if isinstance(y, Tensor):
        return _product_of_two(operation, _Term(left, x.value), _Term(right, y.value), output, graph)
    return _product_with_constant(_Term(left, x.value), right, np.asarray(y, np.float32), output, graph)


class _Term:
    """A value and the letters of its axes."""

    def __init__(self, letters: str, value: ir.Value) -> None:
        self.letters, self.value = letters, value

    def ordered(self, letters: str, graph: Emitter) -> _Term:
        """Return the same with its axes in another order."""
        if letters == self.letters:
            return self
        order = [self.letters.index(letter) for letter in letters]
        return _Term(letters, graph.op("Transpose", self.value, perm=order))


def _subscripts(operation: Any, call: Call) -> tuple[list[str], str]:
    """Return the letters of each operand and of the result, the ellipsis written out, inside TimeDistributed too."""
    text = operation.subscripts.replace(" ", "")
    if "->" not in text:
        raise refuse(operation, f"its equation '{text}' has no result", "write it with '->'")
    given, output = text.split("->")
    ranks = [len(item.shape) if isinstance(item, Tensor) else np.ndim(item) for item in call.args]
    free = [letter for letter in "ZYXWVUTSRQ" if letter not in text]
    rows = given.split(",")
    spans = [rank - len(row.replace("...", "")) for row, rank in zip(rows, ranks, strict=True)]
    ellipsis = "".join(free[: max([0, *(span for row, span in zip(rows, spans, strict=True) if "..." in row)])])
    times = "".join(free[len(ellipsis) : len(ellipsis) + call.outer])

    def full(row: str, span: int, timed: bool) -> str:
        row = row.replace("...", ellipsis[len(ellipsis) - span :] if span else "")
        return row[:1] + times + row[1:] if timed else row

    timed = [isinstance(item, Tensor) for item in call.args]
    spelled = [full(*item) for item in zip(rows, spans, timed, strict=True)]
    result = full(output, len(ellipsis), timed=True)
    if any(len(set(row)) != len(row) for row in [*spelled, result]):
        raise refuse(operation, f"its equation '{text}' takes a diagonal", "name each axis of an operand once")
    return spelled, result


def _product_with_constant(x: _Term, letters: str, kernel: NDArray[Any], output: str, graph: Emitter) -> ir.Value:
    """The axes that are summed over go last and into one, the product is one with a matrix, and back."""
    summed = [letter for letter in x.letters if letter not in output]
    alone = [letter for letter in letters if letter not in x.letters and letter not in output]
    kernel = kernel.sum(tuple(letters.index(letter) for letter in alone))  # in neither: summed beforehand
    letters = "".join(letter for letter in letters if letter not in alone)
    loose = [letter for letter in summed if letter not in letters]
    sizes = dict(zip(letters, kernel.shape, strict=True))
    if loose:
        axes = np.array([x.letters.index(letter) for letter in loose])
        value = graph.op("ReduceSum", x.value, graph.constant(axes, "axes"), keepdims=0)
        x = _Term("".join(letter for letter in x.letters if letter not in loose), value)
        summed = [letter for letter in summed if letter not in loose]
    shared = [letter for letter in x.letters if letter in letters and letter in output]
    new = [letter for letter in output if letter not in x.letters]
    kept = [letter for letter in x.letters if letter in output and letter not in shared]
    first = "".join(kept) + "".join(shared)
    value = x.ordered(first + "".join(summed), graph).value
    matrix = kernel.transpose([letters.index(letter) for letter in [*shared, *summed, *new]])
    lengths = [int(np.prod([sizes[letter] for letter in part], dtype=np.int64)) for part in (summed, new)]
    matrix = matrix.reshape(*(sizes[letter] for letter in shared), *lengths)
    zeros = [0] * len(first)
    row = [1] if shared else []
    if len(summed) != 1 or shared:
        value = graph.op("Reshape", value, graph.constant([*zeros, *row, lengths[0]], "shape"))
    value = graph.op("MatMul", value, graph.constant(np.ascontiguousarray(matrix), "kernel"))
    if len(new) != 1 or shared:
        value = graph.op("Reshape", value, graph.constant([*zeros, *(sizes[letter] for letter in new)], "shape"))
    return _Term(first + "".join(new), value).ordered(output, graph).value


def _product_of_two(operation: Any, x: _Term, y: _Term, output: str, graph: Emitter) -> ir.Value:
    shared = [letter for letter in x.letters if letter in y.letters and letter in output]
    summed = [letter for letter in x.letters if letter in y.letters and letter not in output]
    rows = [letter for letter in x.letters if letter not in y.letters]
    columns = [letter for letter in y.letters if letter not in x.letters]
    if len(summed) != 1 or len(rows) > 1 or len(columns) > 1:
        raise refuse(operation, f"its equation '{operation.subscripts}'", "let it be a product of two matrices")
    left = x.ordered("".join([*shared, *rows, *summed]), graph).value
    right = y.ordered("".join([*shared, *summed, *columns]), graph).value
    missing = [(left, rows, -2), (right, columns, -1)]
    left, right = (
        value if letters else graph.op("Unsqueeze", value, graph.constant(np.array([place]), "axis"))
        for value, letters, place in missing
    )
    value = graph.op("MatMul", left, right)
    gone = [place for _, letters, place in missing if not letters]
    if gone:
        value = graph.op("Squeeze", value, graph.constant(np.array(gone), "axes"))
    return _Term("".join([*shared, *rows, *columns]), value).ordered(output, graph).value


@emits("Dot")
def _dot(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    """Batch-wise product of two values of two axes: one number for each."""
    left, right = call.tensors
    if len(left.shape) != 2 or len(right.shape) != 2 or call.outer:
        raise refuse(
            layer,
            "it multiplies every frame of one input with every frame of the other",
            "for the products frame by frame write keras.ops.sum(a * b, axis=-1, keepdims=True)",
        )
    values = list(call)
    if layer.normalize:
        values = [_normalized(value, graph) for value in values]
    product = graph.op("Mul", *values)
    return graph.op("ReduceSum", product, graph.constant(np.array([1]), "axes"), keepdims=1)


def _normalized(x: ir.Value, graph: Emitter) -> ir.Value:
    squares = graph.op("ReduceSum", graph.op("Mul", x, x), graph.constant(np.array([1]), "axes"), keepdims=1)
    return graph.op("Div", x, graph.op("Sqrt", graph.op("Max", squares, graph.constant(1e-12, "epsilon"))))
