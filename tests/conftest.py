"""For all tests."""

from __future__ import annotations

import signal

# Tests interrupt programs that they start. What starts in the background of a script inherits a SIGINT that is ignored,
# and hands that on; with a handler of its own here, the programs begin with the usual one.
signal.signal(signal.SIGINT, signal.default_int_handler)
