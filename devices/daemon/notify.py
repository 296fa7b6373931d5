"""What systemd is told, by its own protocol: one datagram a message to the socket it names."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

__all__ = ["Notify"]


class Notify:
    """Tells the service manager; without one, nobody is told, and nothing fails."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # an abstract one
            self._address = "\0" + self._address[1:]
        microseconds = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(microseconds) / 1e6 if ours and microseconds.isdecimal() else None
        """How long systemd waits for a sign of life; None where it does not watch."""

    def ready(self) -> None:
        """All is open."""
        self._send("READY=1")

    def extend(self, seconds: float) -> None:
        """Starting goes on, and may take so long from now: it waits for a device, say."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(1e6 * seconds)}")

    def reloading(self) -> None:
        """A new configuration is being read; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It is coming to an end."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """All make progress."""
        self._send("WATCHDOG=1")

    def status(self, words: str) -> None:
        """Say in one line how it is."""
        self._send(f"STATUS={words}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
                connection.setblocking(False)
                connection.sendto(message.encode(), self._address)
        except OSError:  # nobody listens, or its queue is full: the next one counts
            pass
