"""Loading an ONNX file in a process of its own first: whatever it does there, this process can say so.

`python -m edgernn.quantize.onnx_files.contain FILE CHOICES` loads a file, and thereby runs it, as `load_onnx` does.
What refuses the file in an orderly manner does so again in the process that asked, with its own message.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgernn.errors import ConversionError, EdgeRNNError
from edgernn.quantize.child import last_line, run_child
from edgernn.quantize.onnx_files.session import TooLargeError

__all__ = ["try_apart"]

PATIENCE_S = 300.0


def try_apart(path: Path, choices: Mapping[str, Any]) -> None:
    """Load a file with these `OnnxChoices` in a process of its own; it takes about a second, without TensorFlow.

    Raises `ConversionError` where that process crashes, needs too much memory or does not come to an end.
    """
    try:
        result = run_child("edgernn.quantize.onnx_files.contain", [str(path), json.dumps(choices)], PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise ConversionError(f"{path} was tried, and stopped: it did not end within {PATIENCE_S:g} s") from None
    if result.returncode < 0:
        raise ConversionError(
            f"{path} was tried in a process of its own, and crashed it (signal {-result.returncode}): the file is "
            "damaged, means harm, or meets a defect of ONNX Runtime; export the model anew"
        )
    if result.returncode != 0:
        raise ConversionError(f"{path} was tried in a process of its own, which failed: {last_line(result.stderr)}")


def _main(path: str, choices: str) -> int:
    """Load a file; return the exit status."""
    from edgernn.quantize.onnx_source import OnnxChoices, load_onnx

    try:
        load_onnx(Path(path), OnnxChoices(**json.loads(choices)))
    except TooLargeError as error:  # not to be tried again where it matters
        print(error, file=sys.stderr)
        return 1
    except EdgeRNNError:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
