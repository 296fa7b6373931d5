"""What a long command is at, and for how long: a line for each stage, on standard error."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TextIO

__all__ = ["Progress"]

PATIENCE_S = 1.0  # a shorter stage needs no time beside it


class Progress:
    """Shows stages as they begin; on a terminal the seconds of the present one run along, elsewhere none move.

    >>> with Progress(sys.stdout) as progress:
    ...     progress("reading the layers")
      reading the layers …
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._alive = not quiet and self._stream.isatty()
        self._stage, self._since = "", 0.0
        self._lock, self._over = threading.Lock(), threading.Event()

    def __enter__(self) -> Progress:
        if self._alive:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._finish()

    def __call__(self, stage: str) -> None:
        """Begin a stage."""
        if self._quiet:
            return
        self._finish()
        with self._lock:
            self._stage, self._since = stage, time.monotonic()
            self._write(f"  {stage} …" + "\n" * (not self._alive))

    def _finish(self) -> None:
        """End the line of the stage, with the time that it took."""
        with self._lock:
            if self._alive and self._stage:
                self._write(f"\r  {self._stage} …{self._seconds()}\033[K\n")
            self._stage = ""

    def _tick(self) -> None:
        while not self._over.wait(PATIENCE_S):
            with self._lock:
                if self._stage:
                    self._write(f"\r  {self._stage} …{self._seconds()}\033[K")

    def _seconds(self) -> str:
        took = time.monotonic() - self._since
        return f" {took:.0f} s" if took >= PATIENCE_S else ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
