"""The daemon on a camera in the network and on a broker, for real, which are killed and come back."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgernn.events import Message
from tests.devices.bench import mosquitto
from tests.devices.mosquitto import Listener, Mosquitto, until
from tests.devices.needs import needs
from tests.devices.senders import NO_GSTREAMER, RtspCamera
from tests.devices.test_sensor_run import write_delay
from tests.devices.test_serve import Daemon

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def serving(folder: Path, source: str) -> Iterator[Daemon]:
    """Run a daemon on a model of two values, which says when the second one passes 2; or the first -1, for pictures."""
    watch = 'decoder = "alarm:y[0]?threshold=-1&refractory_ms=0"' if "rtsp" in source else ""
    write_delay(folder / "delay", frame_rate_hz=25.0)
    (folder / "edge.toml").write_text(
        f'state = "{folder / "state"}"\n[pipeline.shed]\nartifact = "delay"\nsource = {source}\n'
        f'sinks = ["json:{folder / "events.jsonl"}"]\nstall_s = 2\n{watch}\n'
    )
    daemon = Daemon(folder)
    try:
        daemon.wait_for("READY=1")
        yield daemon
        assert daemon.end() < 2
        assert daemon.process.returncode == 0
    finally:
        print((folder / "log").read_text())
        daemon.close()


def told(folder: Path) -> int:
    file = folder / "events.jsonl"
    return len([Message.from_json(line) for line in file.read_text().splitlines()]) if file.exists() else 0


@contextlib.contextmanager
def giving(give: Callable[[int], object]) -> Iterator[None]:
    """Give a value 25 times a second: 0 for a quarter of a second, then 3."""
    done = threading.Event()

    def run() -> None:
        for number in itertools.count():
            with contextlib.suppress(OSError):  # it is pulled
                give(3 * (number // 6 % 2))
            if done.wait(0.04):
                return

    thread = threading.Thread(target=run)
    thread.start()
    yield
    done.set()
    thread.join()


@needs(NO_GSTREAMER, "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good")
def test_camera_in_the_network(tmp_path: Path) -> None:
    with ExitStack() as stack:
        camera = RtspCamera()
        stack.callback(camera.pull)
        table = f'{{ uri = "rtsp://127.0.0.1:{camera.port}/1", user = "anna", password = "p@ss", size = "2x1" }}'
        stack.enter_context(serving(tmp_path, table))
        for times in range(3):
            until(lambda times=times: told(tmp_path) > times, 5)  # one each time that the model begins anew
            if times < 2:
                camera.pull()
                until(lambda times=times: (tmp_path / "log").read_text().count("is opened again") > times)
                camera.plug()
        lines = (tmp_path / "log").read_text().splitlines()
        assert not [line for line in lines if not line.startswith("20")], "something else than our log"
        assert "p@ss" not in "".join(lines)


@mosquitto
def test_broker_of_a_sensor(tmp_path: Path) -> None:
    with ExitStack() as stack:
        broker = Mosquitto(tmp_path)
        broker.start()
        stack.callback(broker.kill)
        teller = Listener(broker, "nothing")
        stack.callback(teller.close)
        password = tmp_path / "password"
        password.write_text("secret of anna\n")
        table = f'{{ uri = "{broker.uri("hall/imu")}", user = "anna", password = {{ file = "{password}" }} }}'
        stack.enter_context(serving(tmp_path, table))
        stack.enter_context(giving(lambda value: teller.client.publish("hall/imu", f"[0, {value}]", qos=1)))
        until(lambda: told(tmp_path))
        for _ in range(2):
            broker.kill()
            broker.start()
            before = told(tmp_path)
            until(lambda before=before: told(tmp_path) > before, 5)
