"""Execution providers: what this machine has, and clear words about what it has not. CUDA and TensorRT: not run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgernn.artifact import Artifact, ModelFile
from edgernn.cli import main
from edgernn.devices import run_onnx
from edgernn.devices.providers import fastest, placement, provider_list
from edgernn.devices.runner import open_model, open_runner, runtime_on
from edgernn.errors import UsageError
from edgernn.testing import check_runner
from tests.devices.test_verify import write

Make = Callable[[str, str], ModelFile]
Capture = pytest.CaptureFixture[str]


def test_cpu(model_file: Make) -> None:
    model = model_file("lstm", "onnx")
    check_runner(lambda: open_model(model, "onnxruntime:cpu"))
    assert open_model(model, "onnxruntime:cpu").runtime == open_model(model, "onnxruntime").runtime


def test_fastest_says_why_others_do_not_count(model_file: Make) -> None:
    best, found = fastest(model_file("lstm", "onnx"))
    assert best == "cpu"
    assert isinstance(found["cpu"], float)
    assert "has no provider cuda, it has: cpu; on a Jetson" in str(found["cuda"])


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
@pytest.mark.parametrize("command", ["run", "profile", "verify"])
def test_commands_without_a_gpu(provider: str, command: str, tmp_path: Path, capsys: Capture) -> None:
    artifact = write(tmp_path / "lstm") if command == "verify" else None
    path = artifact.path if artifact else energy(tmp_path)
    more = ["x.wav"] if command == "run" else []
    assert main([command, str(path), *more, "--provider", provider]) == 2
    shown = capsys.readouterr().err
    assert f"has no provider {provider}, it has: cpu" in shown
    assert shown.count("\n") == 1


def energy(folder: Path) -> Path:
    from tests.devices.conftest import write_energy_artifact

    return write_energy_artifact(folder / "energy").path


def test_profile_tells_what_ran_where(tmp_path: Path, capsys: Capture) -> None:
    short = ["--steps", "20", "--seconds", "0"]
    assert main(["profile", str(energy(tmp_path)), "--provider", "auto", *short]) == 0
    assert "operators ran on CPU: " in capsys.readouterr().out


def test_mistakes(energy_artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="the runtime is litert: leave one out"):
        runtime_on(energy_artifact, "litert", "cuda")
    with pytest.raises(UsageError, match="there is no runtime 'onnxruntime:gpu'"):
        open_runner(energy_artifact, "onnxruntime:gpu")
    with pytest.raises(UsageError, match="there is no runtime 'litert:cuda'"):
        open_runner(energy_artifact, "litert:cuda")


def test_placement(model_file: Make) -> None:
    placed = placement(model_file("lstm", "onnx"), "cpu")
    assert list(placed) == ["CPUExecutionProvider"]
    assert placed["CPUExecutionProvider"]["LSTM"] == 1


def test_options_of_tensorrt(model_file: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("CACHE_DIRECTORY", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    model = model_file("lstm", "onnx")
    providers = dict(provider_list("tensorrt", model))
    assert list(providers) == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    cache = Path(providers["TensorrtExecutionProvider"]["trt_engine_cache_path"])
    assert cache.is_dir()
    model.path.write_bytes(model.path.read_bytes() + b"\0")  # another model, another engine
    assert provider_list("tensorrt", model)[0][1]["trt_engine_cache_path"] != str(cache)


def test_a_provider_that_is_built_in_and_does_not_start(model_file: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime then makes a session on the processor, and says so in a warning that nobody reads."""
    import onnxruntime

    fake = ModuleType("onnxruntime")
    vars(fake).update(vars(onnxruntime))

    def on_the_cpu(path: str, options: Any, providers: Any, **more: Any) -> Any:
        assert providers[0][0] == "CUDAExecutionProvider"
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"], **more)

    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    vars(fake).update(get_available_providers=lambda: available, InferenceSession=on_the_cpu)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    with pytest.raises(UsageError, match="cannot start the provider cuda"):
        run_onnx.open_onnxruntime(model_file("lstm", "onnx"), 1, "cuda")
