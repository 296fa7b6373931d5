"""What the wake-word server counts."""

from __future__ import annotations

import threading
from collections import Counter

__all__ = ["WAKE", "WakeCounters"]

WAKE = "wake words"
"""What stands for them among pipelines, none of which has such a name."""


class WakeCounters:
    """Written by the threads of all clients, each addition under `lock`; read by any thread without it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.listen = ""
        """Where the server is; "" while there is none."""
        self.offered: tuple[str, ...] = ()
        """Its words."""
        self.clients = 0
        """Connected now."""
        self.connections = 0
        """Ever accepted."""
        self.ended: Counter[str] = Counter()
        """Connections by how they ended: "closed" by the client, "gone", "idle", "stalled" within an event, "unread" by
        a client that does not read what it is sent, "malformed", "refused" for being too many, "failed" here, "drained"
        at the end."""
        self.streams = 0
        """Streams of audio that clients began."""
        self.not_detected = 0
        """… and stopped without a word in them."""
        self.words: Counter[str] = Counter()
        """Detections by word."""
        self.steps = 0
        self.audio_s = self.busy_s = 0.0
        """Seconds of sound heard, and those that computing took."""

    def count_sound(self, audio_s: float, steps: int, busy_s: float) -> None:
        """Count some sound that was heard."""
        with self.lock:
            self.audio_s += audio_s
            self.busy_s += busy_s
            self.steps += steps

    def count_word(self, word: str) -> None:
        """Count a detection."""
        with self.lock:
            self.words[word] += 1

    def count_stream(self) -> None:
        """Count a stream that began."""
        with self.lock:
            self.streams += 1

    def count_not_detected(self) -> None:
        """Count a stream that was stopped without a word."""
        with self.lock:
            self.not_detected += 1

    def begin_client(self) -> None:
        """Count a client that came."""
        with self.lock:
            self.clients += 1
            self.connections += 1

    def end_client(self, cause: str) -> None:
        """Count a client that went."""
        with self.lock:
            self.clients -= 1
            self.ended[cause] += 1

    def refuse_client(self) -> None:
        """Count a client for which there was no place."""
        with self.lock:
            self.ended["refused"] += 1
