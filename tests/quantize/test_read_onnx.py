"""Reading ONNX files: what is beside them, what is wrong with them, what they may not do."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgernn.cli import main
from edgernn.errors import ConversionError, EdgeRNNError, UnsupportedLayerError
from edgernn.quantize.graph import array_of
from edgernn.quantize.onnx_files.read import read_onnx
from edgernn.quantize.onnx_source import OnnxChoices, load_onnx

MODEL = Path(__file__).parent / "models" / "gru.script.onnx"


def external(folder: Path, location: str = "weights.bin", **facts: str) -> Path:
    """Write the model with one weight in a file beside it, said to be at `location`."""
    proto = onnx.load(MODEL)
    tensor = next(item for item in proto.graph.initializer if len(item.dims) == 3)
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **facts}.items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_weights_may_be_in_a_file_beside_the_model(tmp_path: Path) -> None:
    found, inside = read_onnx(external(tmp_path)), read_onnx(MODEL)
    for name, value in inside.graph.initializers.items():
        np.testing.assert_array_equal(array_of(found.graph.initializers[name]), array_of(value))


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/hostname", "", "nothing.bin", "sub/../../weights.bin", "a\0b"]
)
def test_weights_elsewhere_are_not_opened(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = external(folder, location)
    (tmp_path / "weights.bin").write_bytes(bytes(10000))
    with pytest.raises(ConversionError, match="expected a file in the model's own folder"):
        read_onnx(path)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = external(folder, "link.bin")
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    (tmp_path / "secret.bin").write_bytes(bytes(10000))
    with pytest.raises(ConversionError, match="expected a file in the model's own folder"):
        read_onnx(path)


@pytest.mark.parametrize("facts", [{"offset": "-4"}, {"offset": "999999"}, {"length": "4"}, {"offset": "x"}])
def test_a_file_of_another_size_is_another_models(facts: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"weight .* is said to be .*damaged"):
        read_onnx(external(tmp_path, **facts))


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    proto = onnx.load(MODEL)
    change(proto)
    content: bytes = proto.SerializeToString()
    return content


def _forever() -> bytes:
    """Return a model with a loop that no condition ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["on_out"]), helper.make_node("Tanh", ["h"], ["h_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", "t", 2]),
        ],
        [
            helper.make_tensor_value_info("on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h_out", TensorProto.FLOAT, ["n", "t", 2]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body)],
        "forever",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "t", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "t", 2])],
        [numpy_helper.from_array(np.array(True), "yes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


ACME = onnx.NodeProto(domain="acme")
WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "not an ONNX model"),
    "text": (lambda: b"hello, this is a text" * 10, "ONNX model"),
    "cut off": (lambda: MODEL.read_bytes()[:900], "ONNX model"),
    "an opset of the future": (lambda: changed(lambda p: setattr(p.opset_import[0], "version", 99)), "opset 99"),
    "no opset": (lambda: changed(lambda p: p.ClearField("opset_import")), "opset 0"),
    "another operator": (lambda: changed(lambda p: setattr(p.graph.node[-1], "op_type", "Frobnicate")), "Frobnicate"),
    "another domain": (
        lambda: changed(lambda p: (p.graph.node[-1].MergeFrom(ACME), p.opset_import.add(domain="acme", version=1))),
        "acme::",
    ),
    "a weight of another size": (lambda: changed(lambda p: p.graph.initializer[0].dims.append(7)), "not a valid"),
    "a value from nowhere": (lambda: changed(lambda p: p.graph.node[-1].input.append("nowhere")), "not a valid"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_model_is_said_in_a_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build, message = WRONG[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(build())
    assert main(["convert", str(path), "-o", str(tmp_path / "out"), "-q"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_loop_without_an_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgernn.quantize.onnx_files.session.PATIENCE_S", 0.3)
    path = tmp_path / "model.onnx"
    path.write_bytes(_forever())
    with pytest.raises((ConversionError, UnsupportedLayerError)):
        load_onnx(path, OnnxChoices())


def test_flipped_bits_end_in_an_error_or_a_model(tmp_path: Path) -> None:
    generator, content = random.Random(0), MODEL.read_bytes()
    path = tmp_path / "model.onnx"
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with contextlib.suppress(EdgeRNNError):
            load_onnx(path, OnnxChoices())
            continue
        refused += 1
    assert refused > 5
