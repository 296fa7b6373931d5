"""For all tests."""

from __future__ import annotations

import importlib.util
import signal

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
