"""Faults of the machine that the daemon runs on: killed with -9, a full disk, both at once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

from edgernn.events import Message
from tests.benchmarks.faults.rig import (
    Bench,
    Faults,
    Feed,
    Hung,
    Receiver,
    Serve,
    fill,
    heard,
    read_lines,
    small_disk,
    until,
)

__all__ = ["disk_full", "disk_full_and_killed", "killed"]

LONG_S = 6.0  # a fault after which the daemon waits longest before it tries again
EVERY = 10  # one of so many faults is a long one


@contextmanager
def receiving(path: Path) -> Iterator[Receiver]:
    """Give a program that takes events at a socket."""
    receiver = Receiver(path)
    receiver.start()
    try:
        yield receiver
    finally:
        if path.exists():
            receiver.stop()


def _config(bench: Bench, state: Path, pipeline: str, file: Path, socket: Path) -> str:
    return (
        f'state = "{state}"\n[pipeline.{pipeline}]\nartifact = "{bench.sound.artifact}"\nsource = "stdin:"\n'
        f'sinks = ["away", "here"]\n[sink.away]\nuri = "unix:{socket}"\n[sink.here]\nuri = "json:{file}"\n'
    )


class _Lives:
    """One daemon after the other, each killed; what each had surely heard, and what it may have heard."""

    def __init__(self, bench: Bench, faults: Faults) -> None:
        self._bench, self._faults = bench, faults
        self._sure: dict[str, list[bytes]] = {}
        self._rest: dict[str, list[bytes]] = {}

    def kill(self, name: str, daemon: Serve, feed: Feed) -> None:
        """Kill it while it hears; the samples that it had counted before are those whose events must come."""
        samples = daemon.metric("edgernn_samples_total")
        daemon.kill()
        self._sure[name], self._rest[name] = heard(feed.stop(), samples)

    def compare(self, messages: list[Message]) -> None:
        """Count what one sink received of all lives; of each, events in order and none missing."""
        lives = {name: list(group) for name, group in groupby(messages, lambda message: message.pipeline)}
        if len(lives) != sum(1 for _ in groupby(messages, lambda message: message.pipeline)):
            self._faults.problems.append("events of different lives came in another order than they were decided")
        for name, said in self._sure.items():
            sure = self._bench.sound.events(said)
            every = self._bench.sound.events([*said, *self._rest[name]])
            self._faults.compare(sure, lives.get(name, []), every[len(sure) :])


def killed(bench: Bench) -> Faults:
    """Kill it at random moments; every third time the receiver is away, so that events wait over the kill."""
    faults = Faults("daemon killed with -9")
    lives, file, fault_end = _Lives(bench, faults), bench.folder / "events.jsonl", 0.0
    with receiving(bench.folder / "socket") as receiver:
        for number in bench.each(faults):
            name = f"life{number}"
            daemon = Serve(bench.folder, _config(bench, bench.folder / "state", name, file, receiver.path))
            if number:
                until(daemon.delivered, "what waited is not delivered after a kill")
                faults.recoveries_s.append(time.monotonic() - fault_end)
            feed = Feed(bench.sound, daemon, begin=97 * number % (len(bench.sound.pcm) // 640))
            bench.pause(0.3, 0.7)
            away = number % 3 == 0
            if away:
                receiver.stop()
            bench.pause(0.2, 0.6)
            lives.kill(name, daemon, feed)
            fault_end = time.monotonic()
            if away:
                receiver.start()
        daemon = Serve(bench.folder, _config(bench, bench.folder / "state", "last", file, receiver.path))
        until(daemon.delivered, "what waited is not delivered after the last kill")
        faults.recoveries_s.append(time.monotonic() - fault_end)
        daemon.end()
        lives.compare(receiver.messages)
    lives.compare(read_lines(file))
    return faults


def _may_mount(faults: Faults) -> bool:
    if os.geteuid():
        faults.problems.append("not run: only root mounts a small disk")
    return not os.geteuid()


def disk_full(bench: Bench) -> Faults:
    """Fill the disk with the queue and with a file of events on it; another sink is elsewhere."""
    faults, disk = Faults("disk full"), bench.folder / "disk"
    if not _may_mount(faults):
        return faults
    with small_disk(disk) as filler, receiving(bench.folder / "socket") as receiver:
        daemon = Serve(bench.folder, _config(bench, disk / "state", "hall", disk / "events.jsonl", receiver.path))
        try:
            feed = Feed(bench.sound, daemon)
            for number in bench.each(faults):
                fill(filler)
                held = LONG_S if number % EVERY == EVERY - 1 else bench.chance.uniform(0.3, 1.0)
                time.sleep(held)
                filler.unlink()
                faults.recoveries_s.append(until(daemon.delivered, "what waited on a full disk is not delivered"))
                bench.pause(0.1, 0.3)
            said = feed.stop()
            daemon.finish()
        except Hung:
            daemon.kill()
            raise
        expected = bench.sound.events(said)
        faults.compare(expected, receiver.messages)
        faults.compare(expected, read_lines(disk / "events.jsonl"))
    return faults


def disk_full_and_killed(bench: Bench) -> Faults:
    """Kill it while the disk is full and no sink takes anything, start it on the full disk, and free that later."""
    faults = Faults("disk full, then killed with -9")
    lives, disk = _Lives(bench, faults), bench.folder / "disk"
    file = disk / "events.jsonl"
    if not _may_mount(faults):
        return faults
    with small_disk(disk) as filler, receiving(bench.folder / "socket") as receiver:
        for number in bench.each(faults):
            name = f"life{number}"
            config = _config(bench, disk / "state", name, file, receiver.path)
            daemon = Serve(bench.folder, config)  # on a full disk, but for the first time
            if number:
                filler.unlink()
                faults.recoveries_s.append(until(daemon.delivered, "what waited is not delivered"))
            feed = Feed(bench.sound, daemon, begin=97 * number % (len(bench.sound.pcm) // 640))
            bench.pause(0.1, 0.3)
            receiver.stop()
            fill(filler)
            bench.pause(0.4, 1.0)
            lives.kill(name, daemon, feed)
            receiver.start()
        daemon = Serve(bench.folder, _config(bench, disk / "state", "last", file, receiver.path))
        filler.unlink()
        faults.recoveries_s.append(until(daemon.delivered, "what waited is not delivered after the last kill"))
        daemon.end()
        lives.compare(receiver.messages)
        lives.compare(read_lines(file))
    return faults
