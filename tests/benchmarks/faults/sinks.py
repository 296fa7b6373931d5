"""Faults of those that take events: a broker that is killed, a web server that is slow or hangs."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import Any

from edgernn.events import Message
from tests.benchmarks.faults.deaths import EVERY, LONG_S, receiving
from tests.benchmarks.faults.rig import Bench, Faults, Feed, Hung, Receiver, Serve, read_lines, until
from tests.devices.mosquitto import MOSQUITTO, Listener, Mosquitto
from tests.devices.receivers import WebServer

__all__ = ["broker_killed", "slow"]

SLOW_S = 1.0  # that the server takes for an event
MOST_WAY_S = 1.0  # of an event to another sink, meanwhile


def broker_killed(bench: Bench) -> Faults:
    """Kill the broker with -9, and start it again, while events go to it and to a file."""
    faults = Faults("broker killed and restarted")
    if not MOSQUITTO:
        faults.problems.append("not run: Mosquitto is not installed")
        return faults
    broker, file = Mosquitto(bench.folder), bench.folder / "events.jsonl"
    broker.start()
    listener = Listener(broker, "faults/event")
    daemon = Serve(
        bench.folder,
        f'state = "{bench.folder / "state"}"\n[pipeline.hall]\nartifact = "{bench.sound.artifact}"\nsource = "stdin:"\n'
        f'sinks = ["broker", "json:{file}"]\n[sink.broker]\nuri = "{broker.uri("faults")}"\nuser = "anna"\n'
        'password = { env = "BROKER" }\n',
        BROKER="secret of anna",
    )
    try:
        feed = Feed(bench.sound, daemon)
        for number in bench.each(faults):
            bench.pause(0.2, 0.6)
            broker.kill()
            time.sleep(LONG_S if number % EVERY == EVERY - 1 else bench.chance.uniform(0.1, 1.0))
            broker.start()
            faults.recoveries_s.append(until(lambda: daemon.delivered("broker"), "the broker does not get its events"))
            until(listener.client.is_connected, "the listener is not back")  # a broker's memory does not outlive a kill
        said = feed.stop()
        daemon.finish()
        expected = bench.sound.events(said)
        until(lambda: len(set(listener.payloads("faults/event"))) >= len(expected), "the broker has lost some", 5.0)
    except Hung:
        daemon.kill()
        raise
    finally:
        listener.close()
        broker.kill()
    faults.compare(expected, map(Message.from_json, listener.payloads("faults/event")))
    faults.compare(expected, read_lines(file))
    return faults


class _Moody(WebServer):
    """A server that takes events at once, slowly, or not until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.wait_s = 0.0
        self.well = threading.Event()
        self.well.set()

    def before(self) -> None:
        time.sleep(self.wait_s)
        self.well.wait(60)


def slow(bench: Bench) -> Faults:
    """A web server takes a second for each event, or hangs; what another sink gets is as quick as ever."""
    faults, server = Faults("slow or hanging sink"), _Moody()
    server.start()
    with receiving(bench.folder / "socket") as receiver:
        daemon = Serve(
            bench.folder,
            f'state = "{bench.folder / "state"}"\n[pipeline.hall]\nartifact = "{bench.sound.artifact}"\n'
            f'source = "stdin:"\nsinks = ["quick", "http://127.0.0.1:{server.port}/"]\n'
            f'[sink.quick]\nuri = "unix:{receiver.path}"\n',
        )
        try:
            feed = Feed(bench.sound, daemon)
            for number in bench.each(faults):
                bench.pause(0.1, 0.3)
                if number % 2:
                    server.well.clear()
                    time.sleep(LONG_S if number % EVERY == EVERY - 1 else bench.chance.uniform(0.3, 1.5))
                    server.well.set()
                else:
                    server.wait_s = SLOW_S
                    bench.pause(0.5, 2.5)
                    server.wait_s = 0.0
                faults.recoveries_s.append(until(daemon.delivered, "the web server does not get its events"))
            expected = bench.sound.events(feed.stop())
            daemon.finish()
        except Hung:
            daemon.kill()
            raise
        finally:
            server.well.set()
            server.stop()
        faults.compare(expected, server.messages)
        faults.compare(expected, receiver.messages)
        _check_ways(faults, receiver)
    return faults


def _check_ways(faults: Faults, receiver: Receiver) -> None:
    ways = [
        moment - datetime.fromisoformat(message.time.replace("Z", "+00:00")).timestamp()
        for moment, message in zip(receiver.times_s, receiver.messages, strict=True)
    ]
    worst: Any = max(ways, default=0.0)
    faults.notes.append(f"the longest way of an event to the other sink was {1000 * worst:.0f} ms")
    if worst > MOST_WAY_S:
        faults.problems.append("another sink was held up")
