"""The MQTT sink against Mosquitto: TLS, passwords, refusals, the last will, discovery, and a broker that is killed."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from edgernn.devices import mqtt as mqtt_module
from edgernn.devices.secret import Secret
from edgernn.devices.sinks import open_sink
from edgernn.devices.sinks.home_assistant import discovery_payload, discovery_topic
from edgernn.errors import RefusedError, SinkError
from edgernn.events import Keyword, Message, Stamp
from tests.devices.mosquitto import Listener, Mosquitto, needs_mosquitto, until

STAMP = Stamp()
ANNA = {"user": "anna", "password": Secret("text", "secret of anna")}


def message(word: str = "left") -> Message:
    return STAMP("hall", Keyword(word, 0.9, 0.5, 1.0))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def listener(broker: Mosquitto) -> Iterator[Listener]:
    listener = Listener(broker)
    yield listener
    listener.close()


pytestmark = [pytest.mark.slow, needs_mosquitto]


@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")  # Paho leaves it to the garbage collector
@pytest.mark.parametrize(
    ("tls", "table", "says"),
    [
        (False, {"user": "anna", "password": "wrong"}, "refuses the connection: Not authorized"),
        (False, {}, "refuses the connection: Not authorized"),
        (True, {}, "cannot be reached: its certificate is not trusted: "),
        (True, {"ca": "other"}, "cannot be reached: its certificate is not trusted: "),
    ],
)
def test_a_connection_that_is_refused(broker: Mosquitto, tls: bool, table: dict[str, Any], says: str) -> None:
    table = table | ({"ca": str(broker.certificates.other_ca)} if "ca" in table else {})
    with pytest.raises(SinkError, match=rf"the broker 127.0.0.1:\d+ {says}") as caught:
        open_sink(broker.uri("hall", tls), table)
    assert "wrong" not in str(caught.value)
    del caught
    gc.collect()


def test_a_broker_that_is_not_there() -> None:
    with pytest.raises(SinkError, match=r"the broker 127.0.0.1:1 cannot be reached: Connection refused"):
        open_sink("mqtt://anna:secret@127.0.0.1:1/hall")


def test_an_event_that_may_not_be_published_is_refused(broker: Mosquitto) -> None:
    sink = open_sink(broker.uri("hall").replace("//", "//reader:secret%20of%20reader@"))
    with pytest.raises(RefusedError, match="refuses the event: Not authorized"):
        sink.write(message())
    sink.close()
    sink = open_sink(broker.uri("hall") + "?discovery=", ANNA)
    with pytest.raises(RefusedError, match=r"refuses the event: \d+ bytes are too large, it takes 50000"):
        sink.write(message("long" * 20_000))
    sink.close()


def test_its_availability_is_true(broker: Mosquitto, listener: Listener) -> None:
    status = listener.payloads
    sink = open_sink(broker.uri("yard"), ANNA)
    until(lambda: status("yard/status") == ["online"])
    sink.close()
    until(lambda: status("yard/status") == ["online", "offline"])
    code = f"""import os, signal
from edgernn.devices.sinks import open_sink
from edgernn.events import Keyword, Stamp
sink = open_sink({broker.uri("yard")!r}, {{"user": "anna", "password": "secret of anna"}})
sink.write(Stamp()("yard", Keyword("left", 0.9, 0.5, 1.0)))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    until(lambda: status("yard/status") == ["online", "offline", "online", "offline"])  # the last is its will


def test_it_is_there_again_after_the_broker_was_away_while_nothing_happened(
    broker: Mosquitto, listener: Listener
) -> None:
    sink = open_sink(broker.uri("attic"), ANNA)
    broker.kill()
    broker.start()
    until(lambda: "online" in listener.payloads("attic/status")[-1:])
    until(lambda: sink._lost == "")  # type: ignore[attr-defined]
    sink.write(message())
    sink.close()


def test_a_broker_that_hangs_is_noticed_though_nothing_happens(
    broker: Mosquitto, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No connection ends, none is refused: it answers nothing, and the pings of an idle client tell."""
    monkeypatch.setattr(mqtt_module, "KEEP_ALIVE_S", 1)
    sink = open_sink(broker.uri("cellar"), ANNA)
    try:
        broker.signal(signal.SIGSTOP)
        until(lambda: sink._lost)  # type: ignore[attr-defined]
        with pytest.raises(SinkError, match="is lost: Keep alive timeout"):
            sink.write(message())
        time.sleep(1.5)  # tries in vain meanwhile
        broker.signal(signal.SIGCONT)
        until(lambda: sink._lost == "", 5)  # type: ignore[attr-defined]
        sink.write(message())
    finally:
        broker.signal(signal.SIGCONT)
        sink.close()


def test_home_assistant_is_told_of_the_words(broker: Mosquitto, listener: Listener) -> None:
    sink = open_sink(broker.uri("edge/hall") + "?name=Hall", ANNA, ["left", "right"])
    topic = "homeassistant/device/edge_hall/config"
    until(lambda: listener.payloads(topic))
    (line,) = listener.payloads(topic)
    assert json.loads(line) == discovery_payload("edge/hall", "Hall", ["left", "right"])
    sink.write(message("naïve"))  # a word that nobody had told of
    until(lambda: len(listener.payloads(topic)) == 2)
    assert json.loads(listener.payloads(topic)[1])["components"]["word"]["event_types"] == ["left", "right", "naïve"]
    sink.close()
    late = Listener(broker, "homeassistant/#")
    until(lambda: late.heard)  # it is retained
    late.close()
    quiet = open_sink(broker.uri("quiet") + "?discovery=", ANNA)
    quiet.write(message())
    quiet.close()
    until(lambda: listener.payloads("quiet/event"))
    assert not listener.payloads(discovery_topic("homeassistant", "quiet"))
