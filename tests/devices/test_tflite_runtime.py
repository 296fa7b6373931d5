"""The old runtime itself, in an environment of its own: it needs NumPy 1 and Python 3.11 at most."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgernn.artifact import ModelFile

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from edgernn.artifact import ModelFile
from edgernn.devices.runner import open_model
from edgernn.spec import StreamSpec
from edgernn.testing import check_runner

for name, path, spec in json.load(sys.stdin):
    model = ModelFile("tflite", Path(path), "float32", StreamSpec.from_dict(spec), 0)
    check_runner(lambda: open_model(model, "tflite-runtime"))
    if name == "lstm":
        runner = open_model(model)
        frames = np.random.default_rng(1).standard_normal((50, 1, 3)).astype(np.float32)
        print(json.dumps([runner.runtime, [runner.step(x)[0].tolist()[0] for x in frames]]))
"""


def _with_states_inside(model: ModelFile, folder: Path) -> ModelFile:
    from edgernn.quantize.tflite_variables import with_variables

    content, spec = with_variables(model.path.read_bytes(), model.spec)
    path = folder / f"{model.path.stem}_inside.tflite"
    path.write_bytes(content)
    return ModelFile("tflite", path, model.scheme, spec, len(content))


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="2026-11-23: tflite-runtime has no wheel for 3.12 and later")
def test_models_step_in_tflite_runtime(
    tmp_path: Path, model_file: Callable[[str, str], ModelFile], lstm_reference: Callable[..., np.ndarray]
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "tflite-runtime==2.14.0", "numpy<2"], check=True)
    models = [model_file(name, "tflite") for name in ("lstm", "int8", "delay", "hold", "energy")]
    models += [_with_states_inside(model, tmp_path) for model in models]
    given = json.dumps([(model.path.stem, str(model.path), model.spec.to_dict()) for model in models])
    result = subprocess.run(
        [python, "-W", "error", "-c", SCRIPT], cwd=ROOT, input=given, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    runtime, outputs = json.loads(result.stdout)
    assert runtime == "tflite-runtime 2.14.0"
    frames = np.random.default_rng(1).standard_normal((50, 1, 3)).astype(np.float32)
    np.testing.assert_allclose(outputs, lstm_reference(frames[:, 0]), atol=2e-6)
