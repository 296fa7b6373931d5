"""Values from an MQTT broker: `mqtt://HOST/TOPIC?fields=a,b,c`, `mqtts://…`; the topic may have wildcards."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgernn.devices.mqtt import Broker, BrokerOptions, connect
from edgernn.devices.sources.inbox import InboxSource
from edgernn.devices.sources.values import MOST_TEXT, ValueReader
from edgernn.errors import FailureError, SourceError, UsageError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

__all__ = ["MqttSource", "MqttSourceOptions", "source_broker"]

QUEUE_FRAMES = 1000


@dataclass(frozen=True)
class MqttSourceOptions(BrokerOptions):
    """Options of the source."""

    fields: tuple[str, ...] = ()
    """Members of a JSON object, or columns of plain numbers; see `ValueReader`."""
    rate: float | None = None
    """Frames a second, by which is told how many are missing; by default the model's."""


def source_broker(uri: str, options: MqttSourceOptions) -> Broker:
    """Return where the URI points; raise `UsageError` without a topic."""
    broker = Broker.of(uri, options)
    if not broker.topic:
        raise UsageError("the source mqtt: needs a topic, as in mqtt://HOST/TOPIC")
    # Our own name, not the sink's: a broker throws out whoever comes with the name of another one.
    client_id = options.client_id or f"edgernn-{socket.gethostname()}-source-{secrets.token_hex(4)}"
    return replace(broker, options=replace(broker.options, client_id=client_id))


class MqttSource(InboxSource):
    """What comes while the connection is there; it is made anew by itself, and what came meanwhile counts as lost."""

    def __init__(self, broker: Broker, reader: ValueReader, rate_hz: float) -> None:
        super().__init__(f"the broker {broker}", rate_hz, QUEUE_FRAMES, shape=reader.shape)
        self._broker, self._reader = broker, reader
        self._away = False
        self._heard_s: float | None = None
        self._answered, self._refusal = threading.Event(), ""
        try:
            self._client = connect(broker, self._subscribe, self._note_lost, prepare=self._prepare)
        except UsageError:
            raise
        except FailureError as error:
            raise SourceError(str(error)) from error
        if not self._answered.wait(broker.options.timeout) or self._refusal:
            self.close()
            raise SourceError(self._refusal or f"the broker {broker} does not answer a subscription")

    def close(self) -> None:
        """Disconnect."""
        super().close()
        self._client.disconnect()
        self._client.loop_stop()

    def _prepare(self, client: Client) -> None:
        client.on_message = self._take
        client.on_subscribe = self._check_subscription

    def _subscribe(self, client: Client) -> None:
        client.subscribe(self._broker.topic, qos=1)

    def _check_subscription(self, _: Client, __: Any, ___: int, reasons: Sequence[Any], ____: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._refusal = f"the broker {self._broker} does not let us hear {self._broker.topic}: {reasons[0]}"
            self._inbox.end(SourceError(self._refusal))
        self._answered.set()

    def _note_lost(self, reason: str) -> None:
        self._away = True

    def _take(self, _: Client, __: Any, message: Any) -> None:
        if message.retain:  # of before we came
            self._inbox.note("retained")
            return
        now, lost = time.monotonic(), 0
        if self._away and self._heard_s is not None:
            lost = max(0, round((now - self._heard_s) * self.rate_hz) - 1)
            self._inbox.note("disconnected", lost, lost)
        self._away, self._heard_s = False, now
        try:
            if len(message.payload) > MOST_TEXT:
                raise ValueError("too long")
            self._inbox.put(self._reader.read(message.payload.decode()))
        except ValueError as error:
            self._inbox.note("malformed", lost=1, why=error)
