"""What in a model file may keep a step from ending: told from its bytes, before a runtime is given the file.

A digest says that a file is the one that its manifest names, not that either is honest, and no runtime stops what it
has begun. So a step on a device may hold only operators whose work the sizes of their inputs bound: no loop for as long
as some value says, and nothing that may call itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["MOST_ROUNDS", "unbounded"]

MOST_ROUNDS = 1 << 16
DEEPEST = 20  # a graph in a graph in a graph

# numbers of fields in onnx.proto
MODEL_GRAPH, MODEL_FUNCTIONS = 7, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT = 1, 5, 11
NODE_INPUT, NODE_TYPE, NODE_ATTRIBUTE = 1, 4, 5
ATTRIBUTE_GRAPHS = (6, 11)
TENSOR_INTEGERS, TENSOR_NAME, TENSOR_RAW = 7, 8, 9
INPUT_NAME = 1

# what runs other parts of a file, in the schema of TFLite
RUN_PARTS = {31: "CALL", 118: "IF", 119: "WHILE", 200: "STABLEHLO_WHILE", 206: "STABLEHLO_COMPOSITE"}

Field = tuple[int, "int | memoryview"]
Numbers = Mapping[bytes, "int | None"]
"""Constants by name; None for one that is no whole number."""


def unbounded(kind: str, content: bytes) -> str:
    """Return why a step of a file of format `kind` may never end, "" if it always does.

    That the file cannot be read is such a reason, too: nobody knows what is in it.
    """
    try:
        reason = _in_onnx(memoryview(content)) if kind == "onnx" else _in_tflite(content)
    except (ValueError, IndexError, struct.error):
        return "its list of operators cannot be read"
    return f"a step may never end, for {reason}" if reason else ""


def _in_tflite(content: bytes) -> str:
    (model,) = struct.unpack_from("<I", content, 0)
    codes = _follow(content, _slot(content, model, 1))
    (count,) = struct.unpack_from("<I", content, codes)
    for index in range(count):
        code = _follow(content, codes + 4 + 4 * index)
        old, new = _slot(content, code, 0), _slot(content, code, 3)
        number = max(content[old] if old else 0, struct.unpack_from("<i", content, new)[0] if new else 0)
        if number in RUN_PARTS:
            return f"it has the operator {RUN_PARTS[number]}"
    return ""


def _slot(content: bytes, table: int, index: int) -> int:
    """Return where field `index` of a flatbuffer's table is, 0 where it is left out."""
    vtable = table - struct.unpack_from("<i", content, table)[0]
    if vtable < 0:
        raise ValueError("a table outside the file")
    size: int
    (size,) = struct.unpack_from("<H", content, vtable)
    offset: int = struct.unpack_from("<H", content, vtable + 4 + 2 * index)[0] if 4 + 2 * index < size else 0
    return table + offset if offset else 0


def _follow(content: bytes, place: int) -> int:
    if place == 0:
        raise ValueError("nothing there")
    return place + int(struct.unpack_from("<I", content, place)[0])


def _in_onnx(content: memoryview) -> str:
    for number, value in _fields(content):
        if number == MODEL_FUNCTIONS:
            return "it has functions of its own"
        if number == MODEL_GRAPH and (reason := _in_graph(value, {}, 1, 0, False)):
            return reason
    return ""


def _in_graph(graph: int | memoryview, outside: Numbers, times: int, depth: int, looped: bool) -> str:
    """Look through a graph that is run `times` times; `outside` are the whole numbers known around it."""
    if depth > DEEPEST:
        return f"its graphs are nested more than {DEEPEST} deep"
    fields = list(_fields(graph))
    numbers = {**outside, **dict(_number(value) for key, value in fields if key == GRAPH_INITIALIZER)}
    for key, value in fields:
        if key == GRAPH_INPUT:  # whatever its value is at first, the caller may give another one
            numbers.pop(_name(value), None)
    for key, value in fields:
        if key == GRAPH_NODE and (reason := _in_node(_Node.read(value), numbers, times, depth, looped)):
            return reason
    return ""


@dataclass
class _Node:
    type: str = ""
    inputs: list[bytes] = field(default_factory=list)
    graphs: list[int | memoryview] = field(default_factory=list)

    @classmethod
    def read(cls, content: int | memoryview) -> _Node:
        node = cls()
        for number, value in _fields(content):
            if number == NODE_TYPE:
                node.type = _bytes(value).decode(errors="replace")
            elif number == NODE_INPUT:
                node.inputs.append(_bytes(value))
            elif number == NODE_ATTRIBUTE:
                node.graphs += [part for key, part in _fields(value) if key in ATTRIBUTE_GRAPHS]
        return node


def _in_node(node: _Node, numbers: Numbers, times: int, depth: int, looped: bool) -> str:
    if node.type == "Loop":
        rounds = numbers.get(node.inputs[0]) if node.inputs else None
        if rounds is None:
            return "how often it goes through a Loop is computed, or not said"
        times *= max(rounds, 1)
        if times > MOST_ROUNDS:
            return f"it goes through a Loop {times:,} times; at most {MOST_ROUNDS:,} are allowed"
    elif node.type == "Scan" and looped:
        return "it has a Scan within a Loop or another Scan"
    elif node.graphs and node.type not in ("If", "Scan"):
        return f"it has the operator {node.type}, which runs graphs"
    inside = looped or node.type in ("Loop", "Scan")
    reasons = (_in_graph(graph, numbers, times, depth + 1, inside) for graph in node.graphs)
    return next(filter(None, reasons), "")


def _number(tensor: int | memoryview) -> tuple[bytes, int | None]:
    """Return name and value of a constant; None for what is no whole number in plain sight."""
    name, values = b"", []
    for number, value in _fields(tensor):
        if number == TENSOR_NAME:
            name = _bytes(value)
        elif number == TENSOR_RAW and not isinstance(value, int) and len(value) == 8:
            values.append(int.from_bytes(value, "little", signed=True))
        elif number == TENSOR_INTEGERS:
            values.append(value if isinstance(value, int) else _varint(value, 0)[0])
    return name, values[0] if len(values) == 1 else None


def _name(value: int | memoryview) -> bytes:
    return next((_bytes(part) for number, part in _fields(value) if number == INPUT_NAME), b"")


def _bytes(value: int | memoryview) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where text is expected")
    return bytes(value)


def _fields(message: int | memoryview) -> Iterator[Field]:
    """Yield number and value of each field of a message of Protocol Buffers, without looking into any."""
    if isinstance(message, int):
        raise ValueError("a number where a message is expected")
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        size = {1: 8, 5: 4}.get(key & 7, 0)
        if key & 7 == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if key & 7 == 2:
            size, place = _varint(message, place)
        if not 0 < key & 7 < 6 or key & 7 in (3, 4) or place + size > len(message):
            raise ValueError("no such field")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
    raise ValueError("a number without end")
