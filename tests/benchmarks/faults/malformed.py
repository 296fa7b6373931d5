"""Malformed messages among good ones, at every inlet: MQTT, serial line, CSV, UDP, RTP, Wyoming, HTTP."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import socket
import struct
import threading
import time
from collections import Counter

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.benchmarks.faults.rig import CHUNK, RATE, Bench, Faults, Hung, Serve, read_lines, until
from tests.devices.mosquitto import MOSQUITTO, Mosquitto
from tests.devices.test_sensor_run import write_delay
from tests.devices.wyoming_clients import RawClient, form

__all__ = ["malformed"]

PACE = 4.0  # times real time, of three streams of sound at once
HOT, COLD = ["0,3"] * 12, ["0,0"] * 30  # an alarm after five, and none for half a second

VALUES = (
    b"\xff\xfe\x00\x80", b"1", b"1,2,3", b"one,two", b'{"cold": 1', b"1;2;3", b"[" * 3000, b"9," * 1500, b"{}",
    b"--1,2", b"0x10,1", b'"', b"1,2\x00", b"1e,1", b'[[1,2],[3]]', b"null,null", b"7" * 4000,
)  # fmt: skip
DATAGRAMS = (b"\x00", b"abc", b"\xff" * 639, b"x" * 1001, b"")
PACKETS = (
    b"", b"\x80", b"\x80\x60" + bytes(9), b"\x40\x60" + bytes(700), b"\x8f\x60" + bytes(10), b"\x90\x60" + bytes(11),
    b"\xa0\x60" + bytes(10) + b"\xff" * 20, struct.pack("!BBHII", 0x80, 0, 1, 1, 7) + bytes(640), b"\xff" * 1200,
)  # fmt: skip
EVENTS = (
    b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 200 + b"\n", b'{"type": 5}\n', b'{"data": {}}\n', b"[" * 5000 + b"\n",
    b"x" * 70_000, b'{"type": "audio-chunk", "payload_length": -1}\n', b'{"type": "describe", "data_length": 1e9}\n',
    b'{"type": "audio-chunk", "payload_length": 99999999999}\n', b'{"type": "describe", "data_length": 100}\n{',
    b'{"type": "audio-chunk", "data": {"rate": 0, "width": 2, "channels": 1}, "payload_length": 4}\nabcd', b"null\n",
)  # fmt: skip
REQUESTS = (
    b"\x00" * 100, b"GET\r\n\r\n", b"GET " + b"/" * 70_000 + b"\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: evil\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999999\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 2000 + b"\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)  # fmt: skip


class _Inlets:
    """All that the daemon of this fault listens to."""

    def __init__(self, bench: Bench, broker: Mosquitto) -> None:
        self._bench, self.folder = bench, bench.folder
        self.artifact = write_delay(bench.folder / "delay")
        self._line, slave = pty.openpty()
        self._slave = slave  # kept open, lest the line ends before the daemon has it
        self.tty = os.ttyname(slave)
        self.csv = (bench.folder / "readings.csv").open("ab", buffering=0)
        self.csv.write(b"cold,hot\n")
        self.ports = _free_ports(2)
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "sensor")
        self._client.username_pw_set("anna", "secret of anna")
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self._stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sent: Counter[str] = Counter()
        """Malformed messages, by inlet."""
        self.cycles = 0

    def config(self, broker: Mosquitto) -> str:
        """Return the daemon's configuration."""
        sources = {
            "mqtt": f'{{ uri = "{broker.uri("values")}", user = "anna", password = {{ env = "BROKER" }} }}',
            "serial": f'"serial:{self.tty}"',
            "csv": f'"csv:{self.folder / "readings.csv"}?follow"',
            "udp": f'"udp://127.0.0.1:{self.ports[0]}"',
            "rtp": f'"rtp://127.0.0.1:{self.ports[1]}"',
        }
        lines = [f'state = "{self.folder / "state"}"']
        for name, source in sources.items():
            artifact = self._bench.sound.artifact if name in ("udp", "rtp") else self.artifact
            lines += [f'[pipeline.{name}]\nartifact = "{artifact}"\nsource = {source}\nstall_s = 60']
            lines += [f'sinks = "json:{self.folder / "events.jsonl"}"']
        lines += [f'[wake]\nartifact = "{self._bench.sound.artifact}"\nlisten = "tcp://127.0.0.1:0"']
        lines += [f'sinks = "json:{self.folder / "events.jsonl"}"']
        return "\n".join(lines)

    def publish(self, text: bytes) -> None:
        self._client.publish("values", text, qos=1)

    def _write(self, text: bytes) -> None:
        os.write(self._line, text + b"\n")

    def begin(self) -> None:
        """Send what the first alarm is told from; of a serial line, the first line may have no beginning."""
        self._write(b"# begins here")
        self.values(COLD)

    def values(self, lines: list[str]) -> None:
        """Send good values, to the three inlets that take them."""
        for line in lines:
            self.publish(line.encode())
            self._write(line.encode())
            self.csv.write(line.encode() + b"\n")
            time.sleep(0.0005)

    def garbage(self, number: int, daemon: Serve, wake: tuple[str, int]) -> None:
        """Send one malformed message to each inlet."""
        for name, send in {"mqtt": self.publish, "serial": self._write}.items():
            send(VALUES[number % len(VALUES)])
            self.sent[name] += 1
        self.csv.write(VALUES[number % len(VALUES)] + b"\n")
        self.sent["csv"] += 1
        for name, port, kinds in (("udp", self.ports[0], DATAGRAMS), ("rtp", self.ports[1], PACKETS)):
            self._stranger.sendto(kinds[number % len(kinds)], ("127.0.0.1", port))
            self.sent[name] += 1
        _say(wake, EVENTS[number % len(EVENTS)])
        self.sent["wake"] += 1
        _say(daemon.address, REQUESTS[number % len(REQUESTS)])
        self.sent["http"] += 1

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._stranger.close()
        self.csv.close()
        for end in (self._line, self._slave):
            os.close(end)


class _Speech(threading.Thread):
    """Says the sound over UDP, over RTP and to the wake words, at once."""

    def __init__(self, bench: Bench, ports: list[int], client: RawClient) -> None:
        super().__init__(daemon=True)
        self.said: list[bytes] = []
        self._chunks, self._ports, self._client = bench.sound.chunks(), ports, client
        self.ending = threading.Event()

    def run(self) -> None:
        begin = time.monotonic()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number, chunk in enumerate(self._chunks):
                time.sleep(max(0.0, begin + number * CHUNK / RATE / PACE - time.monotonic()))
                if self.ending.is_set():
                    return
                head = struct.pack("!BBHII", 0x80, 96, number & 0xFFFF, number * CHUNK & 0xFFFFFFFF, 7)
                swapped = bytearray(chunk)
                swapped[::2], swapped[1::2] = chunk[1::2], chunk[::2]
                sender.sendto(chunk, ("127.0.0.1", self._ports[0]))
                sender.sendto(head + swapped, ("127.0.0.1", self._ports[1]))
                self._client.send("audio-chunk", chunk, **form())
                self.said.append(chunk)


def malformed(bench: Bench) -> Faults:
    """Send what is malformed between good messages, one at a time to each of seven inlets."""
    faults = Faults("malformed messages, to 7 inlets")
    if not MOSQUITTO:
        faults.problems.append("not run: Mosquitto is not installed")
        return faults
    broker = Mosquitto(bench.folder)
    broker.start()
    inlets = _Inlets(bench, broker)
    daemon = Serve(bench.folder, inlets.config(broker), BROKER="secret of anna")
    try:
        _run(bench, faults, inlets, daemon)
        daemon.end()
    except Hung:
        daemon.kill()
        raise
    finally:
        inlets.close()
        broker.kill()
    return faults


def _run(bench: Bench, faults: Faults, inlets: _Inlets, daemon: Serve) -> None:
    wake = "127.0.0.1", int(re.findall(r"wake words on tcp://127.0.0.1:(\d+)", daemon.log)[-1])
    with RawClient(wake) as client:
        threading.Thread(target=_drink, args=(client,), daemon=True).start()
        speech = _Speech(bench, inlets.ports, client)
        speech.start()
        inlets.begin()
        until(lambda: _alive(daemon, inlets, 0), "not every inlet is heard")
        for number in bench.each(faults):
            inlets.values([*HOT, *COLD[:10]])
            before = daemon.metric("edgernn_samples_total", pipeline="udp")
            inlets.garbage(number, daemon, wake)
            begin = time.monotonic()
            inlets.values(COLD[10:])
            inlets.cycles += 1
            until(lambda: _alive(daemon, inlets, before), "good messages are not heard any more")  # noqa: B023
            faults.recoveries_s.append(time.monotonic() - begin)
            bench.pause(0.2, 0.5)
        speech.ending.set()
        speech.join()
        _settle(daemon, inlets, speech)
    _compare(bench, faults, inlets, daemon, speech)


def _alive(daemon: Serve, inlets: _Inlets, before: float) -> bool:
    """Tell whether all good values have been heard, and more of the sound than before."""
    values = len(COLD) + inlets.cycles * (len(HOT) + len(COLD))
    counted = [daemon.metric("edgernn_samples_total", pipeline=name) for name in ("mqtt", "serial", "csv")]
    sound = [daemon.metric("edgernn_samples_total", pipeline=name) for name in ("udp", "rtp")]
    return min(counted) >= values and min(sound) > before and bool(daemon.health["healthy"])


def _settle(daemon: Serve, inlets: _Inlets, speech: _Speech) -> None:
    samples, seconds = len(speech.said) * CHUNK, len(speech.said) * CHUNK / RATE
    until(lambda: daemon.metric("edgernn_samples_total", pipeline="udp") >= samples, "not all of UDP was heard")
    until(lambda: daemon.metric("edgernn_samples_total", pipeline="rtp") >= samples, "not all of RTP was heard")
    until(lambda: daemon.metric("edgernn_wake_sound_seconds_total") >= seconds - 1e-6, "not all of Wyoming was heard")
    until(daemon.delivered, "events wait")


def _compare(bench: Bench, faults: Faults, inlets: _Inlets, daemon: Serve, speech: _Speech) -> None:
    lines = read_lines(inlets.folder / "events.jsonl")
    expected = bench.sound.events(speech.said)
    for name in ("udp", "rtp", "wake"):
        faults.compare(expected, [message for message in lines if message.pipeline == name])
    for name in ("mqtt", "serial", "csv"):
        alarms = len({message.id for message in lines if message.pipeline == name})
        faults.expected += inlets.cycles
        faults.received += min(alarms, inlets.cycles)
        faults.strange += max(0, alarms - inlets.cycles)
    for name, sent in inlets.sent.items():
        if name != "http" and (counted := _counted(daemon, name)) != sent:
            faults.problems.append(f"{name}: {sent} malformed messages, of which {counted} are counted")
    faults.notes.append(f"{sum(inlets.sent.values())} malformed messages in all, each counted by its cause")


def _counted(daemon: Serve, name: str) -> int:
    if name == "wake":
        return int(daemon.metric("edgernn_wake_connections_ended_total", cause="malformed"))
    causes = ("malformed", "other payload", "stranger") if name == "rtp" else ("malformed",)
    return int(sum(daemon.metric("edgernn_dropped_samples_total", pipeline=name, cause=cause) for cause in causes))


def _drink(client: RawClient) -> None:
    """Read what the server says, as a client should."""
    with contextlib.suppress(OSError, ValueError):
        while client.receive() is not None:
            pass


def _say(address: tuple[str, int], words: bytes) -> None:
    """Say something to a server, and wait until it has ended the connection, or a while."""
    with contextlib.suppress(OSError), socket.create_connection(address, 5) as connection:
        connection.sendall(words)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def _free_ports(count: int) -> list[int]:
    found = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for one in found:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in found]
    for one in found:
        one.close()
    return ports
