"""For all tests."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Tests interrupt programs that they start. What starts in the background of a script inherits a SIGINT that is ignored,
# and hands that on; with a handler of its own here, the programs begin with the usual one.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What is written with PyTorch cannot even be read without it: `make torch` installs it and runs this.
WITH_TORCH = [
    "quantize/models/attention.py",
    "quantize/models/make.py",
    "quantize/test_torch.py",
    "quantize/test_torch_contract.py",
]
collect_ignore = [] if importlib.util.find_spec("torch") else WITH_TORCH


@pytest.fixture(scope="session")
def keyword_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo's artifact, as TFLite, converted once for all tests that listen to it."""
    folder = tmp_path_factory.mktemp("keyword") / "keyword"
    run = Path(__file__).parents[1] / "train" / "pretrained" / "keyword-crnn"
    program = [sys.executable, "-c", "import sys; from edgernn.cli import main; sys.exit(main())"]
    subprocess.run([*program, "convert", str(run), "--to", "tflite", "-q", "-o", str(folder)], check=True)
    return folder
