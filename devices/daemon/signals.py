"""Signals to the daemon, which its main thread waits for between two of its own steps."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from collections.abc import Callable, Iterator

__all__ = ["signals"]


@contextlib.contextmanager
def signals() -> Iterator[Callable[[float], set[int]]]:
    """Catch the signals; give a function that waits for some seconds at most, and returns those that came.

    The handlers do nothing: Python writes each signal's number to a socket, and the loop reads it there, between two
    of its own steps.
    """
    reader, writer = socket.socketpair()
    for end in (reader, writer):
        end.setblocking(False)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    old = {number: signal.signal(number, lambda *_: None) for number in numbers}
    old_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def wait(seconds: float) -> set[int]:
        if not select.select([reader], [], [], max(0.0, seconds))[0]:
            return set()
        return set(reader.recv(4096))

    try:
        yield wait
    finally:
        signal.set_wakeup_fd(old_fd)
        for number, handler in old.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()
