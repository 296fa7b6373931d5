from __future__ import annotations

import dataclasses
import gc
import sys
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgernn.artifact import Artifact, ModelFile
from edgernn.devices import runner as module
from edgernn.devices.runner import RUNTIMES, open_model, open_runner
from edgernn.errors import ArtifactError, MissingDependencyError, ShapeError, UsageError
from edgernn.spec import QuantParams
from edgernn.stream import Runner
from edgernn.testing import check_runner
from tests.devices.growth import growth_of

BOTH = all(find_spec(RUNTIMES[name].module.partition(".")[0]) for name in ("litert", "onnxruntime"))
needs_both = pytest.mark.skipif(not BOTH, reason="2026-11-23: not here: LiteRT and ONNX Runtime at once")

OpenNamed = Callable[[str], Runner]
MakeFile = Callable[[str, str], ModelFile]


def frames(count: int, features: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 1, features)).astype(np.float32)


@pytest.mark.parametrize("name", ["lstm", "int8", "delay", "hold", "energy"])
def test_runner_passes_the_checks(name: str, runtime: str, open_named: OpenNamed) -> None:
    if name == "int8" and runtime == "onnxruntime":
        return  # that model is only made for TFLite
    check_runner(lambda: open_named(name))


def test_lstm_gives_what_the_formula_gives(open_named: OpenNamed, lstm_reference: Callable[..., np.ndarray]) -> None:
    runner, xs = open_named("lstm"), frames(300)
    outputs = np.concatenate([runner.step(x)[0].copy() for x in xs])
    np.testing.assert_allclose(outputs, lstm_reference(xs[:, 0]), atol=2e-6)


def test_int8_gives_about_what_the_formula_gives(
    runtime: str, open_named: OpenNamed, lstm_reference: Callable[..., np.ndarray]
) -> None:
    if runtime == "onnxruntime":
        return
    runner, xs = open_named("int8"), frames(300)
    outputs = np.concatenate([runner.step(x)[0].copy() for x in xs])
    assert np.abs(outputs - lstm_reference(xs[:, 0])).max() < 0.25
    levels = outputs * 32  # every output is a level of its scale, 1/32
    np.testing.assert_array_equal(levels, np.rint(levels))


def test_states_that_share_memory_are_not_mixed_up(open_named: OpenNamed) -> None:
    """In the TFLite file of a delay line a state's output is another state's input: the very same tensor."""
    runner, xs = open_named("delay"), frames(20, features=2)
    outputs = np.concatenate([runner.step(x)[0].copy() for x in xs])
    np.testing.assert_array_equal(outputs, np.concatenate([np.zeros((2, 2)), xs[:-2, 0]]))


def test_held_state_keeps_its_initial_value_during_the_first_steps(open_named: OpenNamed) -> None:
    runner, one = open_named("hold"), np.ones((1, 2), np.float32)
    for _ in range(2):
        assert [float(runner.step(one)[0][0, 0]) for _ in range(6)] == [6, 6, 6, 6, 7, 8]
        runner.reset()


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5])
def test_snapshot_knows_how_far_the_warm_up_is(cut: int, open_named: OpenNamed) -> None:
    runner, one = open_named("hold"), np.ones((1, 2), np.float32)
    for _ in range(cut):
        runner.step(one)
    state = runner.snapshot()
    runner.reset()
    other = open_named("hold")
    for again in (runner, other):
        again.restore(state)
        rest = [float(again.step(one)[0][0, 0]) for _ in range(6 - cut)]
        assert rest == [6, 6, 6, 6, 7, 8][cut:]


def test_restore_names_what_does_not_fit(open_named: OpenNamed) -> None:
    runner = open_named("lstm")
    state = dict(runner.snapshot())
    state["lstm.h"] = np.zeros((1, 5), np.float32)
    with pytest.raises(ShapeError, match=r"lstm\.h.*\(1, 4\).*\(1, 5\)"):
        runner.restore(state)


def test_step_says_what_it_expected_and_found(open_named: OpenNamed) -> None:
    runner = open_named("lstm")
    with pytest.raises(ShapeError, match=r"'x'.*\(1, 3\).*found shape \(2, 3\)"):
        runner.step(np.zeros((2, 3), np.float32))
    with pytest.raises(ShapeError, match="1 arrays, for the inputs x; found 2"):
        runner.step(np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32))
    with pytest.raises(ShapeError, match="found list"):
        runner.step([[0.0, 0.0, 0.0]])  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4),
    st.sampled_from([0.5, 0.03125, 0.0721, 0.3]),
    st.integers(-128, 127),
)
def test_quantizing_on_the_way_in_is_that_of_the_spec(values: list[float], scale: float, zero: int) -> None:
    from edgernn.devices.ports import reader, writer
    from edgernn.spec import TensorSpec

    spec = TensorSpec("x", (1, 2, 2), "int8", QuantParams(scale, zero))
    assert spec.quant is not None
    tensor, real = np.zeros(spec.shape, np.int8), np.array(values, np.float32).reshape(2, 2)
    writer(spec, tensor)(real)
    np.testing.assert_array_equal(tensor[0], spec.quant.quantize(real, "int8"))
    output, read = reader(spec, tensor, in_place=True)
    assert read is not None
    read()
    np.testing.assert_array_equal(output, spec.quant.dequantize(tensor))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_copies_happen_as_if_all_at_once(data: st.DataObject) -> None:
    from edgernn.devices.carry import plan_copies

    cells = 6
    memory = np.arange(cells * 4, dtype=np.int32).reshape(cells, 4)
    targets = data.draw(st.lists(st.integers(0, cells - 1), min_size=1, max_size=cells, unique=True))
    origins = [data.draw(st.integers(0, cells - 1)) for _ in targets]
    expected = memory.copy()
    expected[targets] = memory[origins]
    for target, origin in plan_copies([memory[i] for i in origins], [memory[i] for i in targets]):
        target[:] = origin
    np.testing.assert_array_equal(memory, expected)


def test_tensors_that_are_not_the_specs_are_named(runtime: str, model_file: MakeFile) -> None:
    model = model_file("lstm", RUNTIMES[runtime].format)
    spec = model.spec
    (x,), (h, c) = spec.inputs, spec.states
    wrongs = {
        "h_(in|new)": dataclasses.replace(spec, states=(dataclasses.replace(h, input="h_new"), c)),
        r"'x'.*\(1, 1, 9\)": dataclasses.replace(spec, inputs=(dataclasses.replace(x, shape=(1, 1, 9)),)),
        "'c_(in|out)'.*int8": dataclasses.replace(spec, states=(h, dataclasses.replace(c, dtype="int8"))),
        "h_in": dataclasses.replace(spec, states=(c,)),
    }
    for words, wrong in wrongs.items():
        with pytest.raises(ArtifactError, match=words):
            open_model(dataclasses.replace(model, spec=wrong), runtime)


def test_quantization_that_is_not_the_specs_is_named(model_file: MakeFile, runtime: str) -> None:
    if runtime == "onnxruntime":
        return  # an ONNX file does not tell
    model = model_file("int8", "tflite")
    h, c = model.spec.states
    for quant in (QuantParams(1 / 100), QuantParams(1 / 128, 3), None):
        wrong = dataclasses.replace(model.spec, states=(dataclasses.replace(h, quant=quant), c))
        with pytest.raises(ArtifactError, match=r"'h_in' has quantization .*0\.0078125"):
            open_model(dataclasses.replace(model, spec=wrong), runtime)


def test_a_file_that_the_runtime_cannot_even_name_is_one_error(
    model_file: MakeFile, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_file("lstm", "onnx")
    content = model.path.read_bytes()
    model.path.write_bytes(content.replace(b"Gemm", b"G\xeamm"))
    with pytest.raises(ArtifactError, match="cannot be opened by onnxruntime"):
        open_model(model, "onnxruntime")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("damage", ["empty", "truncated", "junk"])
def test_corrupt_file_is_named(damage: str, runtime: str, model_file: MakeFile) -> None:
    model = model_file("lstm", RUNTIMES[runtime].format)
    content = model.path.read_bytes()
    model.path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "junk": b"\xffjunk" * 99}[damage])
    with pytest.raises(ArtifactError, match=f"{model.path.name} cannot be opened") as caught:
        open_model(model, runtime)
    assert str(caught.value).isprintable()


@needs_both
def test_every_runtime_gives_the_same(energy_artifact: Artifact) -> None:
    xs = frames(100, features=40)
    outputs = {}
    for name in ("litert", "onnxruntime"):
        runner = open_runner(energy_artifact, name)
        assert runner.runtime.split()[0] == RUNTIMES[name].package
        outputs[name] = np.concatenate([runner.step(x)[0].copy() for x in xs])
    np.testing.assert_allclose(outputs["litert"], outputs["onnxruntime"], atol=1e-5)


@needs_both
def test_runtime_is_chosen_by_what_is_installed(energy_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: set[str] = set()
    monkeypatch.setattr(module, "find_spec", lambda name: True if name in installed else None)
    with pytest.raises(UsageError) as caught:
        open_runner(energy_artifact)
    assert all(f"edgernn[{extra}]" in str(caught.value) for extra in ("litert", "tflite", "onnx"))
    installed.add("onnxruntime")
    assert open_runner(energy_artifact).runtime.startswith("onnxruntime ")
    installed.add("ai_edge_litert")
    assert open_runner(energy_artifact).runtime.startswith("ai-edge-litert ")
    with pytest.raises(MissingDependencyError, match=r"edgernn\[tflite\]"):
        open_runner(energy_artifact, "tflite-runtime")


def test_format_decides_which_runtime_is_missing(energy_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: True if name == "ai_edge_litert" else None)
    programs = {"step": {"onnx": energy_artifact.model("onnx")}}
    with pytest.raises(UsageError, match=r"onnxruntime.*edgernn\[onnx\]"):
        open_runner(dataclasses.replace(energy_artifact, programs=programs))


@pytest.mark.parametrize(("name", "package"), [("litert", "ai_edge_litert"), ("onnxruntime", "onnxruntime")])
def test_import_that_fails_names_the_extra(
    name: str, package: str, energy_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: True)
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgernn\["):
        open_runner(energy_artifact, name)


def test_tflite_runtime_asks_for_numpy_1(energy_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: True)
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(UsageError, match=r"NumPy below 2, found 2\.1\.0"):
        open_runner(energy_artifact, "tflite-runtime")


@needs_both
def test_misuse_is_refused(energy_artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="litert, tflite-runtime, onnxruntime"):
        open_runner(energy_artifact, "tensorrt")
    with pytest.raises(UsageError, match="threads must be at least 1, not 0"):
        open_runner(energy_artifact, threads=0)
    with pytest.raises(UsageError, match="litert runs tflite files"):
        open_model(energy_artifact.model("onnx"), "litert")


def test_outputs_outlive_the_runner(open_named: OpenNamed) -> None:
    runner, xs = open_named("lstm"), frames(3)
    for x in xs:
        (output,) = runner.step(x)
    expected = output.copy()
    del runner
    gc.collect()
    others = [open_named("lstm") for _ in range(5)]  # would take the memory, if it were free
    for other in others:
        other.step(10 * xs[0])
    np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize(("what", "count"), [("opening", 3), pytest.param("stepping", 1000, marks=pytest.mark.slow)])
def test_opening_and_a_million_steps_stay_right_and_take_no_memory(
    what: str, count: int, model_file: MakeFile, runtime: str, lstm_reference: Callable[..., np.ndarray]
) -> None:
    xs = frames(count)
    outputs, growth = growth_of(what, model_file("lstm", RUNTIMES[runtime].format), runtime, xs)
    np.testing.assert_allclose(outputs, lstm_reference(xs[:, 0]), atol=2e-6)
    assert growth < 2**20
