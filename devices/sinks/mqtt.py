"""Events to an MQTT broker, each acknowledged (QoS 1): `mqtt://HOST/TOPIC`, `mqtts://HOST/TOPIC`.

Events go to TOPIC/event, one JSON object each; TOPIC/status is "online" or, by the last will too, "offline". Home
Assistant finds the device by itself (`home_assistant.py`).
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgernn.devices.mqtt import Broker, BrokerOptions, connect
from edgernn.devices.sinks.home_assistant import OFFLINE, ONLINE, discovery_payload, discovery_topic
from edgernn.errors import FailureError, RefusedError, SinkError, UsageError
from edgernn.events import Message

if TYPE_CHECKING:
    from paho.mqtt.client import Client

__all__ = ["MqttOptions", "MqttSink", "mqtt_broker"]

# Reasons of MQTT 5 that are no fault of the connection: not authorized, topic name invalid, packet too large,
# payload format invalid. (An older protocol has no reasons; its brokers acknowledge what they throw away.)
REFUSALS = (0x87, 0x90, 0x95, 0x99)
HEADER = 10  # bytes of a packet beside topic and payload, at most


@dataclass(frozen=True)
class MqttOptions(BrokerOptions):
    """Options of the sink."""

    discovery: str = "homeassistant"
    """Prefix of Home Assistant's discovery; empty for none."""
    name: str | None = None
    """The device's name there; by default the machine's."""


def mqtt_broker(uri: str, options: MqttOptions) -> Broker:
    """Return where the URI points; without a topic, that is edgernn/ and the machine's name."""
    broker = Broker.of(uri, options)
    topic = broker.topic or f"edgernn/{socket.gethostname()}"
    if set(topic) & set("+#\0"):
        raise UsageError(f"the topic {topic!r} has a wildcard: events go to one topic")
    return Broker(broker.host, broker.port, broker.tls, topic, broker.options)


class MqttSink:
    """A connection that tells at once when it is lost, and is made anew by itself while there is nothing to send."""

    def __init__(self, broker: Broker, options: MqttOptions | None = None, words: Sequence[str] = ()) -> None:
        self._broker, self._options = broker, options or MqttOptions()
        self._words = list(words)
        self._changed = threading.Condition()
        self._answers: dict[int, Any] = {}  # what the broker said, by the number of a message
        self._lost = ""
        try:
            self._client = connect(
                broker, self._greet, self._note_lost, (f"{broker.topic}/status", OFFLINE), self._prepare
            )
        except UsageError:
            raise
        except FailureError as error:
            raise SinkError(str(error)) from error

    def write(self, message: Message) -> None:
        """Publish one event, and wait until the broker has it."""
        topic, payload = f"{self._broker.topic}/event", message.to_json().encode()
        self._check_size(len(topic.encode()) + len(payload))
        if message.event.label not in self._words:
            self._words.append(message.event.label)
            self._discover(self._client)
        with self._changed:
            self._answers.clear()
        if self._lost or not self._client.is_connected():
            raise SinkError(f"the connection to the broker {self._broker} is lost: {self._lost or 'closed'}")
        number = self._client.publish(topic, payload, qos=1).mid
        with self._changed:  # not while publishing: Paho calls back with a lock of its own
            self._changed.wait_for(lambda: self._lost or number in self._answers, self._broker.options.timeout)
            answer = self._answers.get(number)
        self._check(answer)

    def close(self) -> None:
        """Say goodbye, and close the connection."""
        if self._client.is_connected():
            with contextlib.suppress(RuntimeError, ValueError):
                goodbye = self._client.publish(f"{self._broker.topic}/status", OFFLINE, qos=1, retain=True)
                goodbye.wait_for_publish(1.0)
        self._client.disconnect()
        self._client.loop_stop()

    def _check_size(self, count: int) -> None:
        """Refuse what would end the connection each time, where the broker has told how much it takes (MQTT 5)."""
        most = self._client.user_data_get()
        if most and count + HEADER > most:
            reason = f"{count + HEADER} bytes are too large, it takes {most}"
            raise RefusedError(f"the broker {self._broker} refuses the event: {reason}")

    def _check(self, answer: Any) -> None:
        if answer is None and "too large" in self._lost:  # it would end every connection
            raise RefusedError(f"the broker {self._broker} refuses the event: {self._lost}")
        if answer is None and self._lost:
            raise SinkError(f"the connection to the broker {self._broker} is lost: {self._lost}")
        if answer is None:
            seconds = self._broker.options.timeout
            raise SinkError(f"the broker {self._broker} has not acknowledged an event within {seconds:g} s")
        if answer.value in REFUSALS:
            raise RefusedError(f"the broker {self._broker} refuses the event: {answer}")
        if answer.is_failure:
            raise SinkError(f"the broker {self._broker} does not take the event: {answer}")

    def _prepare(self, client: Client) -> None:
        client.on_publish = self._note_acknowledged

    def _note_acknowledged(self, client: Client, _: Any, mid: int, reason: Any, __: Any) -> None:
        with self._changed:
            self._answers[mid] = reason
            self._changed.notify_all()

    def _note_lost(self, reason: str) -> None:
        with self._changed:
            self._lost = reason
            self._changed.notify_all()

    def _greet(self, client: Client) -> None:
        """Say that we are there, after each new connection."""
        with self._changed:
            self._lost = ""
        self._discover(client)
        client.publish(f"{self._broker.topic}/status", ONLINE, qos=1, retain=True)

    def _discover(self, client: Client) -> None:
        if prefix := self._options.discovery:
            name = self._options.name or socket.gethostname()
            payload = discovery_payload(self._broker.topic, name, self._words)
            client.publish(discovery_topic(prefix, self._broker.topic), json.dumps(payload), qos=1, retain=True)
