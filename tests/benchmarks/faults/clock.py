"""The clock set back and forward by hours (libfaketime: the daemon's own, not the machine's)."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

from edgernn.events import Message
from tests.benchmarks.faults.deaths import receiving
from tests.benchmarks.faults.rig import Bench, Faults, Feed, Hung, Receiver, Serve, until
from tests.devices.mosquitto import MOSQUITTO, Listener, Mosquitto

__all__ = ["set_back"]

HOURS = 20  # at most; certificates of the broker are good for a day
RECONNECT = 5  # one of so many times, the broker is restarted too
APART_S = 1.5  # an event's time and the clock's, with what its way takes


class _Clock:
    """The clock of one process: so many seconds beside the machine's."""

    def __init__(self, folder: Path, library: str) -> None:
        self._file = folder / "clock"
        self.settings: list[tuple[float, float]] = []
        """When it was set, and to what."""
        self.environment = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }
        self.set(0.0)

    def set(self, seconds: float) -> None:
        """Set it, forward or back."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+.0f}\n")
        self.settings.append((time.time(), seconds))
        fresh.rename(self._file)

    def is_right(self, said: str, arrived_s: float) -> bool:
        """Tell whether a time that an event has is what the clock said just before it arrived."""
        told = datetime.fromisoformat(said.replace("Z", "+00:00")).timestamp()
        ends = [begin for begin, _ in self.settings[1:]] + [float("inf")]
        return any(
            abs(told - arrived_s - seconds) < APART_S
            for (_, seconds), end in zip(self.settings, ends, strict=True)
            if end > arrived_s - APART_S
        )


def set_back(bench: Bench) -> Faults:
    """Set the clock by up to 20 hours, mostly back, while events go to a socket and, through TLS, to a broker."""
    faults = Faults("clock set back, or forward")
    library = find_library()
    if not library or not MOSQUITTO:
        faults.problems.append("not run: libfaketime or Mosquitto is not installed")
        return faults
    clock, broker = _Clock(bench.folder, library), Mosquitto(bench.folder)
    broker.start()
    listener = Listener(broker, "faults/event")
    with receiving(bench.folder / "socket") as receiver:
        daemon = Serve(
            bench.folder,
            f'state = "{bench.folder / "state"}"\n[pipeline.hall]\nartifact = "{bench.sound.artifact}"\n'
            f'source = "stdin:"\nsinks = ["broker", "near"]\n[sink.near]\nuri = "unix:{receiver.path}"\n'
            f'[sink.broker]\nuri = "{broker.uri("faults", tls=True)}"\nca = "{broker.certificates.ca}"\nuser = "anna"\n'
            'password = { env = "BROKER" }\n',
            BROKER="secret of anna",
            **clock.environment,
        )
        try:
            feed = Feed(bench.sound, daemon)
            for number in bench.each(faults):
                bench.pause(0.3, 0.8)
                clock.set(round(3600 * bench.chance.uniform(-HOURS, HOURS / 4)))
                if number % RECONNECT == RECONNECT - 1:
                    broker.kill()
                    broker.start()
                faults.recoveries_s.append(_until_events_come(daemon, receiver))
                until(listener.client.is_connected, "the listener is not back")
            said = feed.stop()
            daemon.finish()
            expected = bench.sound.events(said)
            until(lambda: len(set(listener.payloads("faults/event"))) >= len(expected), "the broker lacks events", 5.0)
        except Hung:
            daemon.kill()
            raise
        finally:
            listener.close()
            broker.kill()
        faults.compare(expected, receiver.messages)
        faults.compare(expected, map(Message.from_json, listener.payloads("faults/event")))
        _check_times(faults, clock, receiver)
    return faults


def find_library() -> str | None:
    """Return where libfaketime is."""
    places = ("lib/*/faketime", "lib*/faketime")
    found = [path for place in places for path in Path("/usr").glob(f"{place}/libfaketimeMT.so.1")]
    return str(found[0]) if found else None


def _until_events_come(daemon: Serve, receiver: Receiver) -> float:
    """Wait until an event that was decided after now has arrived, and nothing waits."""
    before = len(receiver.messages)
    return until(
        lambda: len(receiver.messages) > before and daemon.delivered(), "no event comes after the clock was set"
    )


def _check_times(faults: Faults, clock: _Clock, receiver: Receiver) -> None:
    wrong = [
        message.time
        for message, arrived_s in zip(receiver.messages, receiver.times_s, strict=True)
        if not clock.is_right(message.time, arrived_s)
    ]
    if wrong:
        faults.problems.append(f"{len(wrong)} events have another time than the clock had, the first {wrong[0]}")
    runs = [message.id.rpartition("-") for message in receiver.messages]
    numbers = [int(number) for _, _, number in runs]
    if len({run for run, _, _ in runs}) > 1 or numbers != list(range(1, len(numbers) + 1)):
        faults.problems.append("ids do not count up")
    went_back = sum(a.time > b.time for a, b in zip(receiver.messages, receiver.messages[1:], strict=False))
    faults.notes.append(f"{went_back} times an event has an earlier time than the one before it, and a later id")
