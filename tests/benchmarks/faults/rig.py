"""A daemon under faults: what it hears, what must come out of that, and what did."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from edgernn.devices.daemon.config import PipelineConfig, SourceConfig
from edgernn.devices.daemon.prepare import prepare
from edgernn.events import Event, Message
from tests.devices.receivers import UnixServer

__all__ = [
    "Bench",
    "Faults",
    "Feed",
    "Hung",
    "Receiver",
    "Serve",
    "Sound",
    "key_of",
    "read_lines",
    "small_disk",
    "until",
]

EDGERNN = [sys.executable, "-c", "import sys; from edgernn.cli import main; sys.exit(main())"]
RATE, CHUNK = 16000, 320
PACE = 10.0  # times real time
HUNG_S = 30.0  # waited for longer than this, something hangs
RECOVERY_S = 5.0

Key = tuple[str, float, float]


class Hung(Exception):
    """Something did not come to pass."""


def until(condition: Callable[[], object], what: str, within_s: float = HUNG_S, every_s: float = 0.01) -> float:
    """Wait for a condition; return how long that took."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > within_s:
            raise Hung(what)
        time.sleep(every_s)
    return time.monotonic() - begin


@dataclass
class Faults:
    """One row of the table."""

    name: str
    injected: int = 0
    expected: int = 0
    received: int = 0
    """Different ones of those that were expected."""
    repeated: int = 0
    """Deliveries of an event whose id had been there."""
    strange: int = 0
    """Events that nothing in the sound explains, or out of order."""
    hangs: int = 0
    recoveries_s: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return self.expected - self.received

    @property
    def well(self) -> bool:
        """Whether nothing was lost, hung, or slow to recover."""
        slow = max(self.recoveries_s, default=0.0) > RECOVERY_S
        return not (self.lost or self.strange or self.hangs or slow or self.problems)

    def compare(
        self, expected: Sequence[Key], messages: Iterable[Message], more: Sequence[Key] = (), within_s: float = 0.0
    ) -> None:
        """Count what one sink received of what was expected; `more` may have come after it, in that order.

        An event is another one if its word or its times differ, these by more than `within_s`.
        """
        every, allowed = list(messages), [*expected, *more]
        first = {message.id: message for message in every}
        keys = [_nearest(key_of(message.event), allowed, within_s) for message in first.values()]
        came, known = set(keys), set(allowed)
        self.expected += len(expected)
        self.received += len(set(expected) & came)
        self.repeated += len(every) - len(first)
        in_order = [key for key in allowed if key in came]
        self.strange += len(came - known) + ([key for key in keys if key in known] != in_order)
        unknown = sorted(came - known, key=lambda key: key[2])
        twice = [key for key, times in Counter(keys).items() if times > 1]
        if unknown or twice:
            self.problems.append(f"events that nothing explains: {unknown}, or under two ids: {twice}")

    def cells(self) -> list[object]:
        """Return the row."""
        times = self.recoveries_s
        shown = [f"{np.median(times):.2f}", f"{max(times):.2f}"] if times else ["", ""]
        return [self.name, self.injected, self.expected, self.received, self.lost, self.repeated, self.hangs, *shown]


def _nearest(key: Key, known: Sequence[Key], within_s: float) -> Key:
    """Return the one that a key stands for, or the key itself."""
    if within_s:
        for other in known:
            if other[0] == key[0] and abs(other[2] - key[2]) <= within_s:
                return other
    return key


def key_of(event: Event) -> Key:
    """Return what tells an event of a stream from all others."""
    return event.label, round(event.start_s, 3), round(event.end_s, 3)


class Sound:
    """A recording with known words, which is said again and again."""

    def __init__(self, artifact: Path, pcm: bytes) -> None:
        self.artifact, self.pcm = artifact.resolve(), pcm[: len(pcm) // (2 * CHUNK) * 2 * CHUNK]

    def events(self, said: bytes | Iterable[bytes]) -> list[Key]:
        """Return what an undisturbed stream hears in some sound."""
        stream = prepare(PipelineConfig("undisturbed", self.artifact, SourceConfig("stdin:"))).stream
        parts = [said] if isinstance(said, bytes) else said
        heard = (stream.push(np.frombuffer(part, "<i2").astype(np.float32) / np.float32(32768)) for part in parts)
        return [key_of(event) for events in heard for event in events]

    def is_heard_anew(self, said: bytes, key: Key, within_s: float) -> bool:
        """Tell whether a stream that begins a little before an event hears it, as one may that has just taken over."""
        stream = prepare(PipelineConfig("undisturbed", self.artifact, SourceConfig("stdin:"))).stream
        for begin_s in np.arange(max(0.0, key[2] - 8.0), key[2], 0.1):
            stream.reset(0)
            part = said[round(begin_s * RATE) * 2 : round((key[2] + within_s) * RATE) * 2]
            events = stream.push(np.frombuffer(part, "<i2").astype(np.float32) / np.float32(32768))
            if any(event.label == key[0] and abs(event.end_s + begin_s - key[2]) <= within_s for event in events):
                return True
        return False

    def chunks(self, begin: int = 0) -> Iterator[bytes]:
        """Yield it over and over, 20 ms at a time, from some chunk on."""
        size = 2 * CHUNK
        while True:
            for start in range(begin * size, len(self.pcm), size):
                yield self.pcm[start : start + size]
            begin = 0


@dataclass(frozen=True)
class Bench:
    """Where faults are injected."""

    sound: Sound
    folder: Path
    times: int
    chance: random.Random
    progress: Callable[[str], None]

    def each(self, faults: Faults) -> Iterator[int]:
        """Count the injections."""
        for number in range(self.times):
            self.progress(f"{faults.name}: {number + 1} of {self.times}")
            yield number
            faults.injected += 1

    def pause(self, least_s: float, most_s: float) -> None:
        """Wait a random time."""
        time.sleep(self.chance.uniform(least_s, most_s))


class Serve:
    """`edgernn serve` as a process."""

    def __init__(self, folder: Path, config: str, **environment: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "edge.toml").write_text(f'http.listen = "127.0.0.1:0"\n{config}')
        self._log = folder / "log"
        self._begin = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*EDGERNN, "serve", str(folder / "edge.toml")],
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        assert self.process.stdin
        self.stdin = self.process.stdin
        self._url = ""
        try:
            until(self._answers, f"the daemon does not start: {self.log[-2000:]}")
        except BaseException:
            self.kill()
            raise

    @property
    def log(self) -> str:
        """What it said in this life."""
        return self._log.read_bytes()[self._begin :].decode()

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise Hung(f"the daemon ended: {self.log[-2000:]}")
        if not self._url and (found := re.search(r"live page is at (http://[0-9.:]+)", self.log)):
            self._url = found[1]
        return bool(self._url) and bool(self._ask("/ready").get("started"))

    def get(self, path: str) -> str:
        """Ask once; empty where nothing answers."""
        try:
            with urllib.request.urlopen(self._url + path, timeout=HUNG_S) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""

    def _ask(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get(path) or "{}")
        return found

    @property
    def address(self) -> tuple[str, int]:
        """Of its page."""
        host, _, port = self._url.removeprefix("http://").partition(":")
        return host, int(port)

    @property
    def health(self) -> dict[str, Any]:
        """What it says of itself."""
        return self._ask("/health")

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of all values of a metric with some labels."""
        total = 0.0
        for line in self.get("/metrics").splitlines():
            if re.match(rf"{name}[{{ ]", line) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += float(line.rpartition(" ")[2])
        return total

    def delivered(self, *sinks: str) -> bool:
        """Tell whether nothing waits for some sinks, or for all."""
        states = self.health.get("sinks", {})
        chosen = [state for name, state in states.items() if not sinks or name in sinks]
        return bool(chosen) and not any(state["waiting"] or state["fault"] for state in chosen)

    def kill(self) -> None:
        """Kill it with -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(OSError):
            self.stdin.close()

    def finish(self) -> None:
        """End its input, so that it ends itself when all is delivered."""
        with contextlib.suppress(OSError):
            self.stdin.close()
        try:
            self.process.wait(HUNG_S)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise Hung("the daemon does not end with its input") from error

    def end(self) -> None:
        """Tell it to end."""
        self.process.terminate()
        self.finish()


class Feed:
    """Says the sound to a daemon, faster than it was recorded, from a thread."""

    def __init__(self, sound: Sound, daemon: Serve, begin: int = 0) -> None:
        self.said: list[bytes] = []
        self._sound, self._pipe, self._begin = sound, daemon.stdin, begin
        self._running = threading.Event()
        self._running.set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> list[bytes]:
        """Stop; return what was said."""
        self._running.clear()
        self._thread.join(HUNG_S)
        if self._thread.is_alive():
            raise Hung("the daemon reads no more")
        return self.said

    def _run(self) -> None:
        begin = time.monotonic()
        with contextlib.suppress(OSError, ValueError):  # it was killed
            for number, chunk in enumerate(self._sound.chunks(self._begin)):
                time.sleep(max(0.0, begin + number * CHUNK / RATE / PACE - time.monotonic()))
                if not self._running.is_set():
                    return
                self._pipe.write(chunk)
                self._pipe.flush()
                self.said.append(chunk)


class Receiver(UnixServer):
    """A program at a socket that notes when what came."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.times_s: list[float] = []

    def take(self, line: bytes) -> str:
        self.times_s.append(time.time())
        return super().take(line)


def heard(said: Sequence[bytes], samples: float) -> tuple[list[bytes], list[bytes]]:
    """Part what was said into what a daemon has surely heard, so many samples, and the rest."""
    ends = list(accumulate(len(chunk) // 2 for chunk in said))
    sure = sum(end <= samples for end in ends)
    return list(said[:sure]), list(said[sure:])


def read_lines(path: Path) -> list[Message]:
    """Read what a sink wrote into a file."""
    return [Message.from_json(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "8m") -> Iterator[Path]:
    """Mount a small disk; give the place of a file to fill it with."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder / "filler"
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(filler: Path) -> None:
    """Leave no byte on a disk."""
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1_000_000))
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(512))
