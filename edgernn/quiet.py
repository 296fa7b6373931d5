"""Keeping what a library prints while it is loaded out of our users' sight."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_stderr"]


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what is written to standard error, and let it out only if an exception passes.

    A `KeyboardInterrupt` lets nothing out: who stops a program knows why it stopped.
    TensorFlow greets from C++ before any of its log levels can be set, so that nothing less than the file descriptor
    itself silences it.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            sys.stderr.flush()
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
