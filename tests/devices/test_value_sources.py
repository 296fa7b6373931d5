"""Values of sensors: a file that grows, a serial line, a broker, and a tree of files like Linux' Industrial I/O."""

from __future__ import annotations

import itertools
import json
import os
import pty
import sys
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgernn.cli import main
from edgernn.devices.secret import Secret
from edgernn.devices.sources import frame_rate, listing, open_source
from edgernn.devices.sources.inbox import Inbox
from edgernn.devices.sources.lines import LineSplitter
from edgernn.devices.sources.listing import list_sensors
from edgernn.devices.sources.values import ValueReader
from edgernn.errors import NotThereError, SourceError, UsageError
from edgernn.stream import Source
from tests.devices.mosquitto import Listener, Mosquitto, needs_mosquitto, until
from tests.devices.stand_ins import IioDevice, sounddevice_of

SHAPE = (2,)
TEXT = st.text(max_size=12) | st.sampled_from(["a", "b", "1", "-2.5", "nan", "1e999", "1,2", "[", "{"])


def frames_of(source: Source, count: int) -> tuple[list[list[float]], dict[str, int]]:
    """Return what comes until there are so many frames, got or lost."""
    rows, causes, lost = list[list[float]](), dict[str, int](), 0
    for chunk in source:
        rows += chunk.samples.tolist()
        lost += chunk.lost
        for cause, number in chunk.causes.items():
            causes[cause] = causes.get(cause, 0) + number
        if len(rows) + lost >= count:
            break
    source.close()
    return rows, causes


def test_csv_is_read_by_names_and_its_faults_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "readings.csv"
    path.write_bytes(
        b'\xef\xbb\xbftime,"a b",c\r\n0,1,2\r\n# a comment\r\n\r\n1,3\r\n2,x,4\r\n3,5,\r\n4,1e99,"7"\r\n'
        + b"9" * 9000
        + b"\r\n5,8,9"
    )
    source = open_source(f"csv:{path}?columns=c,a b&rate=100", 100, fast=True, shape=SHAPE)
    rows, causes = frames_of(source, 99)
    np.testing.assert_array_equal(rows, [[2, 1], [np.nan, 5], [7, np.inf], [9, 8]])
    assert causes == {"malformed": 3}


@pytest.mark.parametrize("header", ["a,b\n", ""])
def test_csv_without_names_has_a_header_or_none(header: str, tmp_path: Path) -> None:
    path = tmp_path / "readings.csv"
    path.write_text(header + "".join(f"{n},{-n}\n" for n in range(600)))
    rows, causes = frames_of(open_source(str(path), 100, fast=True, shape=SHAPE), 600)
    assert rows == [[n, -n] for n in range(600)]
    assert not causes


def test_csv_of_other_columns_than_the_model_takes_is_told(tmp_path: Path) -> None:
    (tmp_path / "three.csv").write_text("time,a,b\n0,1,2\n")
    with pytest.raises(SourceError, match=r"has 3 columns, time, a, b, and the model takes 2 values: name them"):
        open_source(f"csv:{tmp_path / 'three.csv'}", 100, shape=SHAPE)


def test_csv_that_is_not_there_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(NotThereError, match=r"none\.csv cannot be read: No such file"):
        open_source(f"csv:{tmp_path / 'none.csv'}?rate=50", 50, shape=(3,))


def test_csv_has_its_own_pace(tmp_path: Path) -> None:
    path = tmp_path / "readings.csv"
    path.write_text("1;2\n" * 30)
    begin = time.monotonic()
    rows, _ = frames_of(open_source(f"csv:{path}?delimiter=;", 100, shape=SHAPE), 99)
    assert len(rows) == 30
    assert 0.28 < time.monotonic() - begin < 3


def test_csv_that_is_rotated_or_truncated_loses_nothing(tmp_path: Path) -> None:
    path, old, rows = tmp_path / "readings.csv", tmp_path / "old.csv", list[list[float]]()
    path.write_text("a,b\n0,0\n")
    source = open_source(f"csv:{path}?columns=a,b&follow&start=begin", 50, shape=SHAPE)

    def read() -> None:
        for chunk in source:
            rows.extend(chunk.samples.tolist())

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: len(rows) == 1)
    with path.open("a") as file:
        path.rename(old)
        file.write("1,0\n2,")  # a writer that has not noticed yet
        file.flush()
        time.sleep(0.1)
        file.write("0\n")
    path.write_text("b,a\n0,3\n")  # with the columns in another order
    until(lambda: len(rows) == 4)
    path.write_text("a,b\n")
    time.sleep(0.15)
    with path.open("a") as file:
        file.write("4,0\n")
    until(lambda: len(rows) == 5)
    source.close()
    reader.join()
    assert rows == [[number, 0] for number in range(5)]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("1, 2", [[1, 2]]),
        ("1;2\n3 4\n", [[1, 2], [3, 4]]),
        ("[1, null]", [[1, np.nan]]),
        ("[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
        ("1e400 nan", [[np.inf, np.nan]]),
    ],
)
def test_values_are_plain_or_json(text: str, rows: list[list[float]]) -> None:
    np.testing.assert_array_equal(ValueReader("it", (), SHAPE).read(text), rows)


def test_fields_are_members_or_columns() -> None:
    reader = ValueReader("it", ("acc.x", "t"), SHAPE)
    np.testing.assert_array_equal(reader.read('{"acc": {"x": 1, "y": 9}, "t": "2.5"}'), [[1, 2.5]])
    np.testing.assert_array_equal(reader.read('{"t": 3}'), [[np.nan, 3]])
    np.testing.assert_array_equal(ValueReader("it", ("3", "0"), SHAPE).read("5,6,7,8"), [[8, 5]])
    with pytest.raises(UsageError, match="names 3 fields, and the model takes 2"):
        ValueReader("the source mqtt:", ("a", "b", "c"), SHAPE)


@given(
    TEXT
    | st.recursive(
        st.floats() | TEXT | st.none(),
        lambda v: st.lists(v, max_size=5) | st.dictionaries(TEXT, v, max_size=5),
        max_leaves=12,
    ).map(json.dumps)
)
def test_whatever_a_sensor_says_is_a_frame_or_refused(text: str) -> None:
    for fields in ((), ("a", "b"), ("0", "7")):
        try:
            frames = ValueReader("it", fields, SHAPE).read(text)
        except ValueError:
            continue
        assert frames.dtype == np.float32
        assert frames.shape[1:] == SHAPE


@pytest.mark.parametrize(("text", "words"), [("[" * 60000, "nested"), ("1," * 40000, "too long")])
def test_text_that_is_too_much_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ValueReader("it", (), SHAPE).read(text)


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(0, 200)))
def test_lines_in_any_cut_are_the_same(lines: list[bytes], cuts: list[int]) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    data, splitter, found = b"".join(line + b"\n" for line in lines), LineSplitter(whole=True), list[bytes]()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for begin, end in itertools.pairwise(places):
        found += splitter.push(data[begin:end])
    assert found == lines


def test_serial_line_counts_what_is_none() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    source = open_source(f"serial:{os.ttyname(slave)}", 50, shape=SHAPE)
    os.write(master, b"its rest\r\n1,2\r\n# hello\r\n\r\nERR\r\n\xff\xfe\r\n3,4\r\n5\r\n6,7\r\n")
    rows, causes = frames_of(source, 6)
    os.close(master)
    os.close(slave)
    assert rows == [[1, 2], [3, 4], [6, 7]]
    assert causes == {"malformed": 3}
    with pytest.raises(SourceError, match=r"serial line /dev/no cannot be opened: No such file or directory$"):
        open_source("serial:/dev/no", 50, shape=SHAPE)


def test_iio_applies_scale_and_offset(tmp_path: Path) -> None:
    IioDevice(tmp_path)
    (tmp_path / "iio:device0").mkdir()
    uri = f"iio:bmi160?channels=accel_x,accel_y,temp,pressure,voltage3&rate=200&root={tmp_path}"
    rows, _ = frames_of(open_source(uri, 200, shape=(5,)), 1)
    np.testing.assert_allclose(rows[0], [5, -1, 120, 101.3, 0.7], rtol=1e-6)


def test_iio_counts_readings_that_are_none_and_those_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = IioDevice(tmp_path)
    read_text, turns = Path.read_text, itertools.count()

    def read(path: Path, *rest: str) -> str:
        if path.name == "in_temp_raw":
            turn = next(turns)
            if turn == 2:
                raise OSError(16, "Device or resource busy")
            if turn == 4:
                return "garbage"
            if turn == 6:
                time.sleep(0.105)
        return read_text(path, *rest)

    monkeypatch.setattr(Path, "read_text", read)
    source = open_source(f"iio:1?channels=temp&root={tmp_path}", 50, shape=(1,))
    begin = time.monotonic()
    _, causes = frames_of(source, 16)
    took_s = time.monotonic() - begin
    assert (causes["unreadable"], causes["malformed"]) == (1, 1)
    assert 4 <= causes["missed"] <= 10
    assert 15 / 50 - 0.1 < took_s < 1
    (device.folder / "in_temp_raw").unlink()
    with pytest.raises(SourceError, match="has no channel 'temp'; it has: accel_x, accel_y, pressure, voltage3"):
        open_source(f"iio:1?channels=temp&root={tmp_path}", 50, shape=(1,))
    with pytest.raises(SourceError, match=r"no sensor 'mpu'.*there are: iio:device1 \(bmi160\)"):
        open_source(f"iio:mpu?root={tmp_path}", 50, shape=(1,))


def test_slow_reader_of_a_sensor_keeps_the_newest(tmp_path: Path) -> None:
    IioDevice(tmp_path)
    source = open_source(f"iio:1?channels=temp&root={tmp_path}", 400, shape=(1,))
    source._inbox._most = 8  # type: ignore[attr-defined]
    waiting = source._inbox._chunks  # type: ignore[attr-defined]
    until(lambda: waiting and waiting[0].causes.get("overflow", 0) > 30)
    first = next(iter(source))
    assert first.lost == sum(first.causes.values())
    source.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    one = Mosquitto(tmp_path)
    one.start()
    yield one
    one.kill()


@pytest.mark.slow
@needs_mosquitto
def test_messages_of_a_broker_that_are_no_values(broker: Mosquitto) -> None:
    teller = Listener(broker, "nothing")

    def give() -> None:
        teller.client.publish("hall/imu", '{"a": 1, "b": {"c": 1.5}}', qos=1).wait_for_publish(5)

    table = {"user": "anna", "password": Secret("text", "secret of anna")}
    uri = broker.uri("+/imu") + "?fields=a,b.c"
    source = open_source(uri, 5, options=table, shape=SHAPE)
    give()
    for payload in ("{", "[1]", '{"c": 1}', "\x00"):
        teller.client.publish("hall/imu", payload, qos=1).wait_for_publish(5)
    give()
    rows, causes = frames_of(source, 6)
    assert [row[1] for row in rows] == [1.5, 1.5]
    assert causes == {"malformed": 4}
    teller.close()
    with pytest.raises(SourceError, match="Not authorized"):
        open_source(uri, 5, options={"user": "anna"}, shape=SHAPE)


def test_what_is_malformed_is_told_though_nothing_else_ever_came() -> None:
    inbox = Inbox(8, shape=SHAPE)
    inbox.note("malformed", lost=1, why="3 values, and the model takes 2")
    chunk = next(iter(inbox))
    assert (chunk.samples.shape, chunk.causes, chunk.lost, chunk.idle) == ((0, *SHAPE), {"malformed": 1}, 1, True)
    assert inbox.remark == "3 values, and the model takes 2"


def test_rate_of_a_source() -> None:
    assert [frame_rate(uri) for uri in ("csv:a?follow&rate=2.5", "serial:x", "iio:1?rate=100")] == [2.5, None, 100]
    assert frame_rate("mqtt://h/t", {"rate": 4}) == 4
    for wrong in ("csv:a?rate=0", "csv:a?rate=fast"):
        with pytest.raises(UsageError, match="number above 0"):
            frame_rate(wrong)


def test_frame_uris_that_make_no_sense(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    wrong: dict[str, str] = {
        "mic:": "the source mic: gives sound, and the artifact takes frames of shape",
        "serial:": "needs more, as in 'serial:/dev/ttyUSB0'",
        "serial:/dev/x?bauds=9": "no option 'bauds'; did you mean baud",
        "mqtt://host": "needs a topic",
        f"csv:{tmp_path}/a.csv?columns=a": "names 1 columns, and the model takes 2 values",
        f"csv:{tmp_path}/a.csv?columns=a,d": "has no column 'd': its first line is",
        f"csv:{tmp_path}/a.csv?start=middle": "can start at its 'begin' or 'end'",
        f"csv:{tmp_path}/b.csv": "cannot be read: No such file",
    }
    for uri, words in wrong.items():
        with pytest.raises((UsageError, SourceError), match=words):
            open_source(uri, 50, shape=SHAPE)


def test_devices_are_listed_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a tree of files like that of a board with a USB camera, which has a second node, and an adapter."""
    for number, index in ((0, 0), (1, 1), (10, 0)):
        folder = tmp_path / "sys/class/video4linux" / f"video{number}"
        folder.mkdir(parents=True)
        (folder / "index").write_text(f"{index}\n")
        (folder / "name").write_text(f"Camera {number}\n")
    for name in ("video0", "video1", "video10", "ttyUSB0", "ttyACM0", "null"):
        (tmp_path / "dev").mkdir(exist_ok=True)
        (tmp_path / "dev" / name).touch()
    (tmp_path / "dev/serial/by-id").mkdir(parents=True)
    (tmp_path / "dev/serial/by-id/usb-FTDI_A1-port0").symlink_to("../../ttyUSB0")
    IioDevice(tmp_path / "sys/bus/iio/devices")
    found = list_sensors(tmp_path)
    assert found == [
        ("camera:0", "Camera 0"),
        ("camera:10", "Camera 10"),
        ("serial:/dev/ttyUSB0", "also /dev/serial/by-id/usb-FTDI_A1-port0, which stays the same"),
        ("serial:/dev/ttyACM0", ""),
        ("iio:bmi160", "channels accel_x, accel_y, pressure, temp, voltage3"),
    ]
    cameras = SimpleNamespace(Picamera2=SimpleNamespace(global_camera_info=lambda: [{"Num": 0, "Model": "imx708"}]))
    monkeypatch.setitem(sys.modules, "picamera2", cameras)
    monkeypatch.setattr(listing, "find_spec", lambda _: True)
    assert list_sensors(tmp_path / "none") == [("picamera2:0", "imx708")]
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice_of())
    assert main(["run", "--list-devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "mic:1        USB mic (1 channel, 48000 Hz)" in lines
    assert "picamera2:0  imx708" in lines
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["run", "--list-devices"]) == 0  # the others, and why there are no microphones
    out, err = capsys.readouterr()
    assert "picamera2:0  imx708" in out
    assert "edgernn[audio]" in err
