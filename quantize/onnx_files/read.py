"""Reading an ONNX file: nothing outside its folder, nothing beyond a sane size, one opset, no functions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import version_converter
from onnx.external_data_helper import load_external_data_for_model
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass, NameFixPass, RemoveUnusedNodesPass

from edgernn.errors import ConversionError, UnsupportedLayerError
from edgernn.quantize.graph import OPSET

__all__ = ["read_onnx"]

LARGEST = 2**31 - 1  # bytes: what one ONNX file can have, weights outside it included
NEWEST_OPSET = onnx.defs.onnx_opset_version()
DOMAINS = ("", "ai.onnx")


def read_onnx(path: Path) -> ir.Model:
    """Read a file, weights included, in opset 17 or a later one and without functions.

    Raises `ConversionError` for what is no ONNX model, points outside its own folder, or is larger than 2 GB.
    """
    proto = _parse(path)
    _check_opset(path, proto)
    _load_external(path, proto)
    try:
        onnx.checker.check_model(proto)
        if _opset(proto) < OPSET:
            proto = version_converter.convert_version(proto, OPSET)
        for tensor in _tensors(proto):
            if _has_nan(onnx.numpy_helper.to_array(tensor)):
                raise ConversionError(f"{path}: the weight {tensor.name} has NaN in it: train the model again")
        model = _plain(ir.from_proto(proto))
        ir.to_proto(model)  # names that are no text are found only here
    except ConversionError:
        raise
    except Exception as error:  # the checker and the converter raise whatever their C++ side met
        raise ConversionError(f"{path} is not a valid ONNX model: {' '.join(str(error).split())[:300]}") from error
    _check_domains(path, model)
    _check_projections(path, model)
    return model


def _has_nan(array: NDArray[Any]) -> bool:
    """Whether a tensor holds NaN; infinity is fine, for masks of attention hold it."""
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


def _parse(path: Path) -> onnx.ModelProto:
    size = path.stat().st_size
    if size > LARGEST:
        raise ConversionError(f"{path} has {size} bytes; an ONNX model can have {LARGEST}")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except (DecodeError, MemoryError, RecursionError) as error:
        raise ConversionError(f"{path} cannot be read as an ONNX model: {error}") from error
    if not proto.graph.node:
        raise ConversionError(f"{path} is not an ONNX model, or one without any operator")
    return proto


def _opset(proto: onnx.ModelProto) -> int:
    return max((item.version for item in proto.opset_import if item.domain in DOMAINS), default=0)


def _check_opset(path: Path, proto: onnx.ModelProto) -> None:
    version = _opset(proto)
    if not 1 <= version <= NEWEST_OPSET:
        raise ConversionError(
            f"{path} is written in opset {version}; this onnx {onnx.__version__} reads 1 to {NEWEST_OPSET}: export the "
            "model with another opset_version"
        )


def _load_external(path: Path, proto: onnx.ModelProto) -> None:
    """Load weights that are in files beside the model; no other file is opened."""
    folder, total = path.parent.resolve(), 0
    for tensor in _tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        facts = {entry.key: entry.value for entry in tensor.external_data}
        file = _inside(path, folder, tensor.name, facts.get("location", ""))
        total += _length(path, tensor, facts, file.stat().st_size)
        if total > LARGEST:
            raise ConversionError(f"{path}: its weights are in files of more than {LARGEST} bytes")
    if total:
        load_external_data_for_model(proto, str(folder))


def _inside(path: Path, folder: Path, name: str, location: str) -> Path:
    try:
        file = (folder / location).resolve()
        if location and file.is_relative_to(folder) and file.is_file() and not Path(location).is_absolute():
            return file
    except (OSError, ValueError, RuntimeError):  # a name with a NUL in it, or links that go in a circle
        pass
    raise ConversionError(
        f"{path}: the weight {name} is said to be in {location!r}; expected a file in the model's own folder, {folder}"
    )


def _length(path: Path, tensor: onnx.TensorProto, facts: dict[str, str], size: int) -> int:
    """Return the bytes of a tensor in a file of `size` bytes; its shape must agree."""
    try:
        offset = int(facts.get("offset") or 0)
        length = int(facts.get("length") or size - offset)
        wanted = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for dim in tensor.dims:
            wanted *= dim
    except (ValueError, KeyError, TypeError):
        offset = length = wanted = -1
    if min(offset, length) < 0 or offset + length > size or wanted > length:
        raise ConversionError(
            f"{path}: the weight {tensor.name}, shape {list(tensor.dims)}, is said to be {facts}, in a file of {size} "
            "bytes: the two files do not belong together, or one is damaged"
        )
    return length


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Give every tensor of a model, those of its subgraphs and functions too."""
    graphs, nodes = [proto.graph], [node for function in proto.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            nodes.extend(graph.node)
            continue
        for attribute in nodes.pop().attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            graphs.extend([attribute.g] if attribute.HasField("g") else attribute.graphs)


def _plain(model: ir.Model) -> ir.Model:
    """Return the model with functions put where they are called, constants as initializers, and unique names."""
    if model.functions:
        InlinePass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    NameFixPass()(model)
    RemoveUnusedNodesPass()(model)
    return model


def _check_domains(path: Path, model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        if node.domain not in DOMAINS:
            raise UnsupportedLayerError(
                f"{path}: node {node.name} is {node.domain}::{node.op_type}, an operator outside of the ONNX standard; "
                "export the model with standard operators only"
            )


def _check_projections(path: Path, model: ir.Model) -> None:
    """Refuse an LSTM with a projection: PyTorch 2.13 (dynamo=True) cuts its weights down to what fits the operator."""
    for node in model.graph.all_nodes():
        cells = node.inputs[6] if node.op_type == "LSTM" and len(node.inputs) > 6 else None
        units = node.attributes.get_int("hidden_size", 0)
        size = cells.shape[-1] if cells is not None and cells.shape else units
        if isinstance(size, int) and size != units:
            raise UnsupportedLayerError(
                f"{path}: node {node.name} (LSTM) gives {units} values from {size} cells: ONNX has no LSTM with a "
                "projection, and torch.onnx.export wrote nn.LSTM(proj_size=...) without it; train without proj_size, "
                "or with a Linear behind the LSTM"
            )
