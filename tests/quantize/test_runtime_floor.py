"""What an older runtime takes: its table of versions, and the files in that very runtime."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgernn.errors import ConversionError, UsageError
from edgernn.quantize.target import FLOORS, Target, check_floor, target_named
from edgernn.quantize.tflite_graph import TFLiteGraph
from tests.quantize.lowering import lowered, truth
from tests.quantize.tflite_files import one_operator

FLOOR = "tflite-runtime-2.14"
ROOT = Path(__file__).parent.parent.parent


def test_what_is_too_new_is_named_with_its_version() -> None:
    graph = TFLiteGraph(one_operator("FULLY_CONNECTED", 12))
    with pytest.raises(ConversionError, match=r"refuses FULLY_CONNECTED version 12 \(it knows up to 10\).*--runtime-f"):
        check_floor(graph, FLOOR)
    check_floor(TFLiteGraph(one_operator("FULLY_CONNECTED", 9)), FLOOR)
    with pytest.raises(ConversionError, match=r"STABLEHLO_ADD version 1 \(it knows none\)"):
        check_floor(TFLiteGraph(one_operator("STABLEHLO_ADD", 1)), FLOOR)


def test_the_table_names_operators_of_the_schema() -> None:
    assert not set(FLOORS[FLOOR]) - set(vars(schema.BuiltinOperator))


def test_targets_are_found_by_name() -> None:
    assert target_named("integer-only", FLOOR) == Target("integer-only", FLOOR)
    with pytest.raises(UsageError, match="no target 'gpu'; choose one of cpu, integer-only"):
        target_named("gpu")
    with pytest.raises(UsageError, match=r"no runtime floor 'tflite-1'; choose one of tflite-runtime-2\.14"):
        target_named("cpu", "tflite-1")


SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from edgernn.artifact import ModelFile
from edgernn.devices.runner import open_model
from edgernn.spec import StreamSpec
from tflite_runtime.interpreter import Interpreter

given = json.load(sys.stdin)
for name, version in given["versions"]:
    path = Path(given["folder"]) / f"{name}-{version}.tflite"
    try:
        Interpreter(model_path=str(path))
        print(json.dumps([name, version]))
    except ValueError:
        pass
for path, spec, frames in given["models"]:
    runner = open_model(ModelFile("tflite", Path(path), "", StreamSpec.from_dict(spec), 0), "tflite-runtime")
    size = runner.spec.frames_per_step
    frames = np.array(frames, np.float32)
    steps = [frames[start : start + size] for start in range(0, len(frames) - size + 1, size)]
    outputs = [[output.tolist() for output in runner.step(chunk)] for chunk in steps]
    print(json.dumps([runner.runtime, outputs]))
"""

# In decibels, and all above what the schemes allow
LEAST_DB = {"float32": 100.0, "float16": 50.0, "dynamic-int8": 33.0, "int8": 31.0}


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="2026-11-23: tflite-runtime has no wheel for 3.12 and later")
def test_every_scheme_runs_in_the_runtime_itself(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "tflite-runtime==2.14.0", "numpy<2"], check=True)
    cases = [(name, scheme) for name in ("lstm", "gru") for scheme in LEAST_DB]
    models = [_model(name, scheme, tmp_path) for name, scheme in cases]
    versions = [(name, known + more) for name, known in FLOORS[FLOOR].items() for more in (0, 1)]
    for name, version in versions:
        (tmp_path / f"{name}-{version}.tflite").write_bytes(one_operator(name, version))
    given = json.dumps({"models": models, "versions": versions, "folder": str(tmp_path)})
    result = subprocess.run([python, "-c", SCRIPT], cwd=ROOT, input=given, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [tuple(line) for line in lines[: -len(cases)]] == list(FLOORS[FLOOR].items()), "the table is the runtime's"
    for (name, scheme), (runtime, outputs) in zip(cases, lines[-len(cases) :], strict=True):
        assert runtime == "tflite-runtime 2.14.0"
        found = np.concatenate([np.array(step[0])[0] for step in outputs])
        noise = np.mean((found - truth(name)[0]) ** 2)
        assert 10 * np.log10(np.mean(truth(name)[0] ** 2) / noise) > LEAST_DB[scheme], f"{name}, {scheme}"


def _model(name: str, scheme: str, folder: Path) -> tuple[str, dict[str, object], list[list[float]]]:
    content, spec = lowered(name).tflite(scheme, Target("cpu", FLOOR))
    path = folder / f"model-{name}-{scheme}.tflite"
    path.write_bytes(content)
    return str(path), spec.to_dict(), lowered(name).streams[0].tolist()


@pytest.mark.slow
def test_what_it_lacks_beside_versions_is_refused() -> None:
    with pytest.raises(ConversionError, match="4 bits"):
        lowered("gru").tflite("int4", Target("cpu", FLOOR))
    with pytest.raises(ConversionError, match="refuses QUANTIZE from int8 to int16"):
        lowered("gru").tflite("int8", Target("integer-only", FLOOR))
