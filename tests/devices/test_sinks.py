"""Each sink against something real that takes events: files, programs, sockets and servers of this machine."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgernn.devices.secret import Secret
from edgernn.devices.sinks import SCHEMES, open_sink, sink_opener
from edgernn.errors import RefusedError, SinkError, UsageError
from edgernn.events import Keyword, Message, Stamp
from tests.devices.needs import needs
from tests.devices.receivers import UnixServer

STAMP = Stamp()


def messages(count: int, word: str = "left") -> list[Message]:
    return [STAMP("hall", Keyword(word, 0.9, 0.5, 1.0)) for _ in range(count)]


def lines_of(*paths: Path) -> list[Message]:
    return [Message.from_json(line) for path in paths for line in path.read_text().split("\n") if line]


def test_json_file_is_rotated_by_size(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sent = messages(40)
    size = len(sent[0].to_json()) + 4
    for ten in (sent[:10], sent[10:]):
        sink = open_sink(f"json:{path}", {"rotate": f"{3 * size}B", "keep": 4})
        for message in ten:
            sink.write(message)
        sink.close()
    files = sorted(tmp_path.iterdir(), reverse=True)
    assert [file.name for file in files] == [*(f"events.jsonl.{number}" for number in (4, 3, 2, 1)), "events.jsonl"]
    assert max(file.stat().st_size for file in files) <= 3 * size
    assert lines_of(*files) == sent[40 - 13 :]


def test_json_file_follows_when_another_program_takes_it_away(tmp_path: Path) -> None:
    path, old = tmp_path / "events.jsonl", tmp_path / "old.jsonl"
    first, second, third = messages(3)
    sink = open_sink(f"json:{path}")
    sink.write(first)
    path.rename(old)
    sink.write(second)
    path.unlink()
    sink.write(third)
    sink.close()
    assert (lines_of(old), lines_of(path)) == ([first], [third])
    with pytest.raises(SinkError, match="is closed"):
        sink.write(first)


def test_json_file_that_ends_within_a_line_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"id": "cut sh')
    sink = open_sink(f"json:{path}?sync=true")
    (message,) = messages(1)
    sink.write(message)
    sink.close()
    assert path.read_text().split("\n")[0] == '{"id": "cut sh'
    assert Message.from_json(path.read_text().split("\n")[1]) == message


def rows_of(path: Path) -> list[Message]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [Message.from_json(line) for (line,) in database.execute("SELECT json FROM events ORDER BY rowid")]


def test_sqlite_keeps_the_newest_rows(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    sink, sent = open_sink(f"sqlite:{path}?keep=3"), messages(8)
    for message in [*sent, sent[-1]]:
        sink.write(message)
    sink.close()
    assert rows_of(path) == sent[-3:]
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT DISTINCT pipeline, word, score FROM events").fetchall() == [
            ("hall", "left", 0.9)
        ]
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(SinkError, match=r"cannot be written to the database .*: file is not a database"):
        open_sink(f"sqlite:{path}")


PROGRAM = """#!/bin/sh
cat >> '{to}'
echo taken
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a program that adds its standard input to the file `to`."""
    path = tmp_path / "program"
    path.write_text(PROGRAM.format(to=tmp_path / "to"))
    path.chmod(0o755)
    return path


def test_command_leaves_standard_output_to_events(
    tmp_path: Path, program: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sink, sent = open_sink(f"command:{program} {{word}}"), messages(1)
    sink.write(sent[0])
    sink.close()
    assert capfd.readouterr() == ("", "taken\n")
    assert lines_of(tmp_path / "to") == sent


def test_command_gets_words_and_no_shell(tmp_path: Path) -> None:
    to = tmp_path / "to"
    script = tmp_path / "script.py"
    script.write_text(f"import sys; print(sys.argv[1:], file=open({str(to)!r}, 'w'))")
    sink = open_sink(f"command:{sys.executable} {script} {{word}} 'x {{score}} {{pipeline}}' '{{id}} {{none of ours}}'")
    (message,) = messages(1, "$HOME; {score} `id`")
    sink.write(message)
    assert to.read_text() == f"{['$HOME; {score} `id`', 'x 0.90 hall', message.id + ' {none of ours}']}\n"
    with pytest.raises(RefusedError, match="cannot be a word of a command: embedded null byte"):
        sink.write(messages(1, "a\0b")[0])
    with pytest.raises(RefusedError, match="cannot be a word of a command"):
        sink.write(messages(1, "half \ud800")[0])
    with pytest.raises(RefusedError, match="too long to be a word"):
        sink.write(messages(1, "long" * 100_000)[0])
    sink.close()
    with pytest.raises(SinkError, match="closed"):
        sink.write(message)


@pytest.mark.parametrize(
    ("script", "kind", "says"),
    [
        ("exit 3", SinkError, "failed: exit status 3"),
        ("exit 65", RefusedError, r"refused the event \(exit status 65\)"),
        ("kill -9 $$", SinkError, "failed: killed by SIGKILL"),
        ("sleep 60 & sleep 60", SinkError, "took longer than 0.2 s, and was killed"),
    ],
)
def test_exit_status_of_a_command_counts(script: str, kind: type[SinkError], says: str) -> None:
    sink = open_sink(f"command:sh -c '{script}'", {"timeout": 0.2 if "sleep" in script else 5})
    with pytest.raises(SinkError, match=says) as caught:
        sink.write(messages(1)[0])
    assert type(caught.value) is kind


@pytest.fixture
def server(tmp_path: Path) -> Iterator[UnixServer]:
    server = UnixServer(tmp_path / "socket")
    server.start()
    yield server
    server.stop()


def test_unix_socket_answers(server: UnixServer) -> None:
    first, second = messages(2)
    sink = open_sink(f"unix:{server.path}?timeout=0.2")
    server.answers = ["refused: not today\n", "something else\n", ""]
    with pytest.raises(RefusedError, match="says: refused: not today"):
        sink.write(first)
    with pytest.raises(SinkError, match=r"answered 'something else\\n', expected the event's id"):
        sink.write(first)
    with pytest.raises(SinkError, match=r"cannot be sent .*: timed out"):
        sink.write(first)
    sink.close()
    with pytest.raises(SinkError):
        sink.write(second)


@pytest.mark.slow
@needs(shutil.which("socat") is None, "socat")
def test_unix_socket_of_socat(tmp_path: Path) -> None:
    import subprocess

    path, to = tmp_path / "socket", tmp_path / "to"
    with subprocess.Popen(["socat", "-u", f"UNIX-LISTEN:{path},fork", f"OPEN:{to},creat,append"]) as process:
        while not path.exists():
            time.sleep(0.01)
        sink, sent = open_sink(f"unix:{path}?ack=false"), messages(50)
        for message in sent:
            sink.write(message)
        sink.close()
        end = time.monotonic() + 5
        while not to.exists() or to.read_text().count("\n") < 50:
            assert time.monotonic() < end
            time.sleep(0.01)
        process.terminate()
    assert lines_of(to) == sent


@pytest.mark.parametrize(
    ("uri", "table", "says"),
    [
        ("carrier-pigeon:", {}, "there is no sink 'carrier-pigeon:'; the sinks are: - or text:"),
        ("mqtt", {}, "there is no sink 'mqtt'"),
        ("text:file", {}, "goes to standard output, and has no path or options"),
        ("sqlite:", {}, "needs a path, as in 'sqlite:PATH'"),
        ("json:x?rotat=1MB", {}, "json:x has no option 'rotat'; did you mean rotate?"),
        (
            "json:x?rotate=big",
            {},
            "the option rotate of the sink json:x must be a size such as 10MB or 64KiB, not 'big'",
        ),
        ("json:x", {"keep": 0}, "the option keep of the sink json:x must be a whole number above 0, not '0'"),
        ("json:x?sync=maybe", {}, "must be true or false, not 'maybe'"),
        ("command:", {}, "needs a program"),
        ("command:say 'x", {}, "cannot be read: No closing quotation"),
        ("command:say {wrd}", {}, "knows no {wrd}; it knows: word, score, id, pipeline, time, json"),
        ("https:///path", {}, "a webhook is a URL such as https://host/path"),
        ("https://user:secret@host/", {}, "a password or a token goes into its table"),
        ("http://host:port/", {}, "has no port that could be"),
        ("https://host/", {"ca": "/nowhere.pem"}, "/nowhere.pem of certificates to trust cannot be used: No such file"),
        ("mqtt://host/a", {"password": Secret("text", "x")}, "has a password and no user"),
        ("mqtt:///topic", {}, "a broker is mqtt://HOST/TOPIC"),
        ("mqtt://host/a/#", {}, "has a wildcard"),
        ("mqtt://host/a?protocol=4", {}, "must be 5 or 3.1.1, not '4'"),
        ("mqtt://host:1x/a", {}, "has no port that could be"),
    ],
)
def test_sinks_that_make_no_sense(uri: str, table: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        sink_opener(uri, table)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


def test_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.*cannot be written: No such file"):
        open_sink(f"json:{tmp_path / 'nowhere' / 'events.jsonl'}")
    with pytest.raises(UsageError, match="the program nothing-like-this for events is not there"):
        open_sink("command:nothing-like-this")
    with pytest.raises(SinkError, match=r"cannot be sent to the socket .*: No such file"):
        open_sink(f"unix:{tmp_path / 'nowhere'}")


def test_a_broker_that_only_knows_an_older_protocol() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            with listening.accept()[0] as connection:
                connection.sendall(b"\x20\x02\x00\x01")
                connection.recv(4096)

        answer = threading.Thread(target=refuse)
        answer.start()
        with pytest.raises(SinkError, match=r"Unsupported protocol version: an older broker takes protocol=3\.1\.1"):
            open_sink(f"mqtt://127.0.0.1:{listening.getsockname()[1]}/hall")
        answer.join()


def test_every_scheme_is_in_the_catalogue() -> None:
    from edgernn.devices.sinks import OPENERS

    shown = " ".join([*SCHEMES, *SCHEMES.values()])
    assert all(f"{scheme}:" in shown for scheme in OPENERS)
