"""States inside a TFLite file, as variables, for programs that cannot carry them.

Made out of the file whose states come in and go out as tensors, so that both have the very same kernels, in every
quantization. What a program calls, by signature:

| signature | takes | does |
| --- | --- | --- |
| `serving_default` | the frames | a step |
| `reset` | `streams`, bool `(batch,)` | begins anew the streams for which that is true |
| `snapshot` | nothing | gives every state, and `steps` where some state waits for its first frame |
| `restore` | what `snapshot` gave | goes on from there |

Java calls `runSignature(inputs, outputs, "reset")` (which takes no empty inputs), C++
`interpreter->GetSignatureRunner("reset")`, C `TfLiteInterpreterGetSignatureRunner(interpreter, "reset")`. Whichever is
called first finds all streams at their beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgernn.quantize.tflite_pack import packed
from edgernn.spec import RESET, RESTORE, SNAPSHOT, STEPS, STREAMS, StateSpec, StreamSpec

__all__ = ["with_variables"]

Operator = schema.BuiltinOperator


def with_variables(content: bytes, spec: StreamSpec) -> tuple[bytes, StreamSpec]:
    """Return the file with its states inside, and the spec that says so.

    `content` has one signature, which takes and gives every state of `spec`; without any it stays as it is.
    """
    if not spec.states:
        return content, spec
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    variables = _Variables(model, spec)
    variables.keep_states()
    for key, build in ((RESET, variables.reset), (SNAPSHOT, variables.snapshot), (RESTORE, variables.restore)):
        graph = _Graph(model, key)
        _sign(model, key, len(model.subgraphs) - 1, *build(graph))
    return packed(model), replace(spec, state_placement="internal")


Named = dict[str, int]
"""Names in a signature to tensors of its subgraph."""


def _sign(model: Any, key: str, subgraph: int, inputs: Named, outputs: Named) -> None:
    signature, graph = schema.SignatureDefT(), model.subgraphs[subgraph]
    signature.signatureKey, signature.subgraphIndex = key.encode(), subgraph
    signature.inputs, signature.outputs = ([_entry(*item) for item in end.items()] for end in (inputs, outputs))
    graph.inputs, graph.outputs = list(inputs.values()), list(outputs.values())
    model.signatureDefs.append(signature)


def _entry(name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), tensor
    return entry


class _Graph:
    """Appends tensors and operators to a subgraph: a new one, or one that is there."""

    def __init__(self, model: Any, name: str, graph: Any = None) -> None:
        self.model, self.graph = model, graph or schema.SubGraphT()
        self._made: dict[tuple[Any, ...], int] = {}
        if graph is None:
            self.graph.name, self.graph.tensors, self.graph.operators = name.encode(), [], []
            self.graph.inputs, self.graph.outputs = [], []
            model.subgraphs.append(self.graph)

    def tensor(
        self, name: str, dtype: str, shape: Sequence[int], quantization: Any = None, data: NDArray[Any] | None = None
    ) -> int:
        """Add a tensor, a constant where there is data; return its index."""
        item = schema.TensorT()
        item.name, item.type = name.encode(), getattr(schema.TensorType, dtype.upper())
        item.shape, item.hasRank, item.quantization = list(shape), True, quantization
        if data is not None:  # else it keeps buffer 0, which is empty in every file
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            item.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(item)
        return len(self.graph.tensors) - 1

    def constant(self, array: NDArray[Any], quantization: Any = None) -> int:
        """Add a constant."""
        key = (array.dtype.name, array.shape, array.tobytes(), id(quantization))
        return self.once(key, lambda: self.tensor("constant", array.dtype.name, array.shape, quantization, array))

    def once(self, key: tuple[Any, ...], make: Callable[[], int]) -> int:
        """Return the tensor that `make` made, and call it the first time alone."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def op(self, code: int, inputs: Sequence[int], outputs: Sequence[int] = (), options: Any = None) -> None:
        """Append an operator."""
        item = schema.OperatorT()
        item.opcodeIndex, item.inputs, item.outputs = self._code(code), list(inputs), list(outputs)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            item.builtinOptionsType, item.builtinOptions = getattr(schema.BuiltinOptions, kind), options
        self.graph.operators.append(item)

    def _code(self, code: int) -> int:
        for index, known in enumerate(self.model.operatorCodes):
            if max(known.builtinCode, known.deprecatedBuiltinCode) == code:
                return index
        new = schema.OperatorCodeT()
        new.builtinCode, new.deprecatedBuiltinCode, new.version = code, min(code, 127), 1
        self.model.operatorCodes.append(new)
        return len(self.model.operatorCodes) - 1


class _Variables:
    """One variable for each state, and one for the steps of each stream, where some state waits for its first frame."""

    def __init__(self, model: Any, spec: StreamSpec) -> None:
        self.model, self.step, self.signature = model, model.subgraphs[0], model.signatureDefs[0]
        self.longest = max((state.hold_steps for state in spec.states), default=0)
        self.batch = spec.batch
        self.carried = spec.states
        steps = StateSpec(STEPS, STEPS, STEPS, (spec.batch,), "int32")
        self.states = (*spec.states, steps) if self.longest else spec.states
        entering = {entry.name.decode(): entry.tensorIndex for entry in self.signature.inputs}
        known = {state.name: self.step.tensors[entering[state.input]].quantization for state in self.carried}
        self.quantization = {name: item for name, item in known.items() if item is not None and item.scale is not None}
        self.initializer = len(model.subgraphs)
        self._initialize(_Graph(model, "initialize"))

    def keep_states(self) -> None:
        """Let the step read each state where it came in, and assign it where it went out."""
        inputs, outputs = (
            {entry.name.decode(): entry.tensorIndex for entry in end}
            for end in (self.signature.inputs, self.signature.outputs)
        )
        body, self.step.operators = self.step.operators, []
        graph = _Graph(self.model, "", self.step)
        values = self._read(graph, {state.name: inputs.pop(state.input) for state in self.carried})
        self.step.operators += body
        leaving = [outputs.pop(state.output) for state in self.carried]
        if self.longest:
            made = values[-1]
            leaving = [self._held(graph, state, made, new) for state, new in zip(self.carried, leaving, strict=True)]
            leaving.append(self._counted(graph, made))
        self._assign(graph, leaving)
        self.model.signatureDefs.remove(self.signature)
        _sign(self.model, self.signature.signatureKey.decode(), 0, inputs, outputs)

    def reset(self, graph: _Graph) -> tuple[Named, Named]:
        """Give the chosen streams their initial values; what comes out is the choice itself."""
        values = self._read(graph)
        streams = graph.tensor(STREAMS, "bool", (self.batch,))
        fresh = []
        for state, value in zip(self.states, values, strict=True):
            chosen = self._along_batch(graph, state, streams)
            fresh.append(self._select(graph, state, chosen, self._initial(graph, state), value))
        self._assign(graph, fresh)
        return {STREAMS: streams}, {STREAMS: streams}

    def snapshot(self, graph: _Graph) -> tuple[Named, Named]:
        """Give all states."""
        return {}, dict(zip((state.output for state in self.states), self._read(graph), strict=True))

    def restore(self, graph: _Graph) -> tuple[Named, Named]:
        """Take all states; what comes out is the first of them."""
        taken = {state.input: self._tensor(graph, state, "taken") for state in self.states}
        self._begin(graph)
        self._assign(graph, list(taken.values()))
        return taken, dict([next(iter(taken.items()))])

    def _initialize(self, graph: _Graph) -> None:
        filled = []
        for state in self.states:
            shape = graph.constant(np.array(state.shape, np.int32))
            filled.append(self._tensor(graph, state, "filled"))
            graph.op(Operator.FILL, [shape, self._initial(graph, state)], filled[-1:], schema.FillOptionsT())
        self._assign(graph, filled)

    def _begin(self, graph: _Graph) -> None:
        """Initialize the variables, if nothing has done so yet."""
        once = schema.CallOnceOptionsT()
        once.initSubgraphIndex = self.initializer
        graph.op(Operator.CALL_ONCE, [], [], once)

    def _read(self, graph: _Graph, into: Mapping[str, int] | None = None) -> list[int]:
        """Return the values of all variables: for some, tensors that are there already."""
        self._begin(graph)
        values = []
        for state in self.states:
            known = (into or {}).get(state.name)
            values.append(self._tensor(graph, state, "value") if known is None else known)
            graph.op(Operator.READ_VARIABLE, [self._handle(graph, state)], values[-1:], schema.ReadVariableOptionsT())
        return values

    def _assign(self, graph: _Graph, values: Sequence[int]) -> None:
        for state, value in zip(self.states, values, strict=True):
            graph.op(Operator.ASSIGN_VARIABLE, [self._handle(graph, state), value], [], schema.AssignVariableOptionsT())

    def _handle(self, graph: _Graph, state: StateSpec) -> int:
        def make() -> int:
            options = schema.VarHandleOptionsT()
            options.container, options.sharedName = b"", state.name.encode()
            handle = graph.tensor("handle", "resource", ())
            graph.op(Operator.VAR_HANDLE, [], [handle], options)
            return handle

        return graph.once(("handle", state.name), make)

    def _tensor(self, graph: _Graph, state: StateSpec, what: str) -> int:
        return graph.tensor(what, state.dtype, state.shape, self.quantization.get(state.name))

    def _initial(self, graph: _Graph, state: StateSpec) -> int:
        first = state.initial_array().flat[0]
        return graph.constant(np.array(first, state.dtype), self.quantization.get(state.name))

    def _held(self, graph: _Graph, state: StateSpec, made: int, new: int) -> int:
        """Keep the initial value while what feeds the state is not valid yet."""
        if not state.hold_steps:
            return new

        def make() -> int:
            waits, held = graph.tensor("waits", "bool", (self.batch,)), np.array(state.hold_steps, np.int32)
            graph.op(Operator.LESS, [made, graph.constant(held)], [waits], schema.LessOptionsT())
            return waits

        waits = graph.once(("waits", state.hold_steps), make)
        return self._select(graph, state, self._along_batch(graph, state, waits), self._initial(graph, state), new)

    def _counted(self, graph: _Graph, made: int) -> int:
        """Return one step more, as far as that matters."""
        raised, capped = (graph.tensor(what, "int32", (self.batch,)) for what in ("raised", "capped"))
        one, most = (graph.constant(np.array(number, np.int32)) for number in (1, self.longest))
        graph.op(Operator.ADD, [made, one], [raised], schema.AddOptionsT())
        graph.op(Operator.MINIMUM, [raised, most], [capped], schema.MaximumMinimumOptionsT())
        return capped

    def _select(self, graph: _Graph, state: StateSpec, condition: int, one: int, other: int) -> int:
        chosen = self._tensor(graph, state, "chosen")
        graph.op(Operator.SELECT_V2, [condition, one, other], [chosen], schema.SelectV2OptionsT())
        return chosen

    def _along_batch(self, graph: _Graph, state: StateSpec, flags: int) -> int:
        """Return flags `(batch,)` in a shape that meets the state's batch axis."""
        shape = [self.batch if axis == state.batch_axis else 1 for axis in range(len(state.shape))]

        def make() -> int:
            result, wanted = graph.tensor("flags", "bool", shape), graph.constant(np.array(shape, np.int32))
            graph.op(Operator.RESHAPE, [flags, wanted], [result], schema.ReshapeOptionsT())
            return result

        return graph.once(("flags", flags, *shape), make)
