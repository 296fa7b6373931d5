"""Every sink, each scheme of URIs, through the public checks of `edgernn.testing`."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from edgernn.devices.sinks import OPENERS, open_sink
from edgernn.events import Message
from edgernn.testing import check_sink
from tests.devices.bench import ANNA, Bench, Row, Table, mosquitto, slow
from tests.devices.mosquitto import Listener, until
from tests.devices.receivers import UnixServer, WebServer

sink = Table()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, monkeypatch, stack, capsys)


@sink("text:")
def _(bench: Bench) -> Mapping[str, Any]:
    return {"open_sink": lambda: open_sink("text:")}


@sink("json: standard output")
def _(bench: Bench) -> Mapping[str, Any]:
    said: list[Message] = []

    def received() -> list[Message]:
        said.extend(Message.from_json(line) for line in bench.capsys.readouterr().out.splitlines())
        return said

    return {"open_sink": lambda: open_sink("json:"), "received": received}


def lines_of(path: Path) -> list[Message]:
    return [Message.from_json(line) for line in path.read_text().split("\n") if line]


def gone(path: Path) -> Mapping[str, Any]:
    """Return what takes a folder away and puts something else in its place, and what brings it back."""

    def break_() -> None:
        path.rename(path.with_name("aside"))
        path.write_text("no folder")

    def mend() -> None:
        path.unlink()
        path.with_name("aside").rename(path)

    return {"break_": break_, "mend": mend}


@sink("json: a file")
def _(bench: Bench) -> Mapping[str, Any]:
    path = bench.folder / "folder" / "events?.jsonl"
    path.parent.mkdir()
    return {"open_sink": lambda: open_sink(f"json:{path}"), "received": lambda: lines_of(path), **gone(path.parent)}


@sink("sqlite:")
def _(bench: Bench) -> Mapping[str, Any]:
    path = bench.folder / "folder" / "events.sqlite"
    path.parent.mkdir()

    def received() -> list[Message]:
        with closing(sqlite3.connect(path)) as database:
            rows = database.execute("SELECT json FROM events ORDER BY rowid").fetchall()
        messages = [Message.from_json(line) for (line,) in rows]
        assert len({one.id for one in messages}) == len(messages)  # each once
        return messages

    return {"open_sink": lambda: open_sink(f"sqlite:{path}"), "received": received, **gone(path.parent)}


@sink("command:")
def _(bench: Bench) -> Mapping[str, Any]:
    program, to = bench.folder / "program", bench.folder / "to"
    program.write_text(f"#!/bin/sh\ncat >> '{to}'\n")
    program.chmod(0o755)
    aside = program.with_name("aside")
    return {
        "open_sink": lambda: open_sink(f"command:{program} {{word}}"),
        "received": lambda: lines_of(to),
        "break_": lambda: shutil.move(program, aside),
        "mend": lambda: shutil.move(aside, program),
    }


@sink("unix:")
def _(bench: Bench) -> Mapping[str, Any]:
    server = UnixServer(bench.folder / "socket")
    return {"open_sink": lambda: open_sink(f"unix:{server.path}"), **served(bench, server)}


@sink("http: a webhook")
def _(bench: Bench) -> Mapping[str, Any]:
    server = WebServer()
    receiver = served(bench, server)
    return {"open_sink": lambda: open_sink(f"http://127.0.0.1:{server.port}/hook?room=hall"), **receiver}


@sink("https: a webhook")
def _(bench: Bench) -> Mapping[str, Any]:
    context, ca = bench.tls()
    server = WebServer(context)
    receiver = served(bench, server)
    return {"open_sink": lambda: open_sink(f"https://127.0.0.1:{server.port}/", {"ca": str(ca)}), **receiver}


def served(bench: Bench, server: UnixServer | WebServer) -> Mapping[str, Any]:
    server.start()
    bench.stack.callback(server.stop)
    return {"received": lambda: server.messages, "break_": server.stop, "mend": server.start}


@sink("mqtt: 5, Home Assistant told", slow, mosquitto)
def _(bench: Bench) -> Mapping[str, Any]:
    return to_a_broker(bench, "mqtt5", False, "protocol=5")


@sink("mqtt: 3.1.1", slow, mosquitto)
def _(bench: Bench) -> Mapping[str, Any]:
    return to_a_broker(bench, "mqtt3", False, "protocol=3.1.1&discovery=")


@sink("mqtts: 5", slow, mosquitto)
def _(bench: Bench) -> Mapping[str, Any]:
    return to_a_broker(bench, "mqtts5", True, "protocol=5")


@sink("mqtts: 3.1.1", slow, mosquitto)
def _(bench: Bench) -> Mapping[str, Any]:
    return to_a_broker(bench, "mqtts3", True, "protocol=3.1.1")


def to_a_broker(bench: Bench, topic: str, tls: bool, options: str) -> Mapping[str, Any]:
    broker = bench.broker()
    listener = Listener(broker, f"{topic}/event")
    bench.stack.callback(listener.close)
    uri = broker.uri(topic, tls) + f"?{options}&timeout=2"

    def received() -> list[Message]:
        time.sleep(0.05)  # the broker has it; then it goes on to the listener
        until(lambda: listener.client.is_connected())
        return [Message.from_json(line) for line in listener.payloads(f"{topic}/event")]

    def mend() -> None:
        before = listener.subscribed
        broker.start()
        until(lambda: listener.subscribed > before)

    table = ANNA | ({"ca": str(broker.certificates.ca)} if tls else {})
    return {
        "open_sink": lambda: open_sink(uri, table, ["left"]), "received": received, "break_": broker.kill, "mend": mend
    }  # fmt: skip


@pytest.mark.parametrize("row", sink.params())
def test_it_passes_the_checks(row: Row, bench: Bench) -> None:
    check_sink(**row(bench))


def test_no_sink_is_left_out() -> None:
    assert sink.schemes == set(OPENERS)
