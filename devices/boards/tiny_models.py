"""Two models that double four numbers, and a program that tries them: is there a runtime that computes?

A process of its own for each, as `python -m edgernn.devices.boards.tiny_models onnxruntime cuda`: a runtime that was
built for another processor ends the process.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgernn.text import one_line

__all__ = ["try_apart"]

# onnx.helper: one Add of "x" and "x", operator set 13
ONNX = "CAcSADpBCg4KAXgKAXgSAXkiA0FkZBIFdHdpY2VaEwoBeBIOCgwIARIICgIIAQoCCARiEwoBeRIOCgwIARIICgIIAQoCCARCBAoAEA0="
# TensorFlow's converter of `x + x`, without names and metadata
TFLITE = (
    "GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAAAYAAAADAEAAAMAAAABAAAABAAAAPz+//8BAAAAEAAAAAwAFAAQAAwACAAEAAwAAAAQAAAAUAAA"
    "AFQAAABYAAAAAQAAABQAAAAAAA4AFAAAABAADAALAAQADgAAABAAAAAAAAALDAAAABAAAABU////AQAAAAEAAAACAAAAAAAAAAAAAAABAAAAAQAAAAEA"
    "AAAAAAAAAgAAAEwAAAAEAAAA0v///wAAAAEMAAAADAAAABAAAACc////AQAAAHkAAAACAAAAAQAAAAQAAAAAABYAFAAQAAAAAAAMAAgAAAAAAAAABwAW"
    "AAAAAAAAAQwAAAAMAAAAEAAAAOD///8BAAAAeAAAAAIAAAABAAAABAAAAAEAAAAIAAAABAAEAAQAAAA="
)
INPUT, OUTPUT = [1.0, -2.0, 0.5, 4.0], [2.0, -4.0, 1.0, 8.0]
WAIT_S = 60.0  # TensorRT builds an engine first


def try_apart(runtime: str, provider: str = "") -> dict[str, Any]:
    """Return what came of it: "version" where it is known, "delegates", and "fault", which is "" where all is well."""
    command = [sys.executable, "-m", "edgernn.devices.boards.tiny_models", runtime, provider]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT_S)
    except subprocess.TimeoutExpired:
        return {"fault": f"it gave nothing within {WAIT_S:.0f} s"}
    lines = done.stdout.splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
        return {"fault": f"its process ended with {ended}: it was built for another processor, perhaps"}
    return found


def _try(runtime: str, provider: str) -> dict[str, Any]:
    import numpy as np

    values = np.array([INPUT], np.float32)
    found, version, delegates = _onnx(values, provider) if runtime == "onnxruntime" else _tflite(values, runtime)
    wrong = found.ravel().tolist() != OUTPUT
    fault = f"it computes {found.ravel().tolist()} where {OUTPUT} is right" if wrong else ""
    return {"version": version, "delegates": delegates, "fault": fault}


def _onnx(values: Any, provider: str) -> tuple[Any, str, list[str]]:
    import onnxruntime

    from edgernn.devices.providers import PROVIDERS

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    names = list(PROVIDERS[provider or "cpu"])
    session = onnxruntime.InferenceSession(base64.b64decode(ONNX), options, providers=names)
    if session.get_providers()[0] != names[0]:
        raise RuntimeError("it is built in, and its libraries do not start")
    return session.run(None, {"x": values})[0], onnxruntime.__version__, session.get_providers()[:1]


def _tflite(values: Any, runtime: str) -> tuple[Any, str, list[str]]:
    from importlib import import_module
    from importlib.metadata import version

    from edgernn.devices.runner import RUNTIMES

    known = RUNTIMES[runtime]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tiny.tflite")
        path.write_bytes(base64.b64decode(TFLITE))
        interpreter = import_module(known.module).Interpreter(str(path))
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
        interpreter.invoke()
        found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    delegated = any(operator["op_name"] == "DELEGATE" for operator in interpreter._get_ops_details())
    return found, version(known.package), ["XNNPACK"] if delegated else []


def _main(arguments: Sequence[str]) -> int:
    """Try one, and print what came of it as JSON."""
    try:
        print(json.dumps(_try(arguments[0], arguments[1])))
    except Exception as error:  # whatever a runtime raises is the answer
        print(json.dumps({"fault": one_line(f"{type(error).__name__}: {error}")}))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
