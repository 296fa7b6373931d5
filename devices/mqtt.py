"""A connection to an MQTT broker (Paho): made at once or not at all, and made anew by itself when it was lost."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from edgernn.devices.secret import Secret
from edgernn.devices.tls import client_tls
from edgernn.errors import FailureError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

__all__ = ["Broker", "BrokerOptions", "connect"]

KEEP_ALIVE_S = 15  # a broker takes us for gone after one and a half of it
RECONNECT_S = (1, 4)


@dataclass(frozen=True)
class BrokerOptions:
    """What a URI or a table says of a broker."""

    user: str | None = None
    password: Secret | None = None
    ca: str | None = None
    """File with the certificates to trust instead of the system's, for mqtts."""
    cert: str | None = None
    """File with our own certificate, where the broker asks for one."""
    key: str | None = None
    client_id: str | None = None
    """Unique at the broker; by default the machine's name and the topic."""
    protocol: str = "5"
    """"5", or "3.1.1" for older brokers."""
    timeout: float = 5.0
    """Seconds to wait for the broker."""


@dataclass(frozen=True)
class Broker:
    """Where a broker is: `mqtt://HOST:PORT/TOPIC`, or `mqtts://` with TLS."""

    host: str
    port: int
    tls: bool
    topic: str
    options: BrokerOptions

    @classmethod
    def of(cls, uri: str, options: BrokerOptions) -> Broker:
        """Read a URI without its query; the options go before its user and password. Raises `UsageError`."""
        parts = urlsplit(uri.replace("#", "%23"))  # a wildcard of MQTT, not a fragment
        try:
            port = parts.port
        except ValueError as error:
            raise UsageError(f"the broker {_shown(uri)} has no port that could be: {error}") from error
        if not parts.hostname:
            raise UsageError(f"a broker is mqtt://HOST/TOPIC or mqtts://HOST/TOPIC, not {_shown(uri)}")
        if options.protocol not in ("5", "3.1.1"):
            raise UsageError(f"the protocol of a broker must be 5 or 3.1.1, not '{options.protocol}'")
        tls = parts.scheme == "mqtts"
        user = options.user if parts.username is None else options.user or unquote(parts.username)
        password = options.password or (None if parts.password is None else Secret("text", unquote(parts.password)))
        if password and not user:
            raise UsageError(f"the broker {_shown(uri)} has a password and no user: add user")
        merged = replace(options, user=user, password=password)
        return cls(parts.hostname, port or (8883 if tls else 1883), tls, unquote(parts.path).strip("/"), merged)

    def __str__(self) -> str:
        """Return it without a password."""
        return f"{self.host}:{self.port}"


def connect(
    broker: Broker,
    on_connect: Callable[[Client], None],
    on_lost: Callable[[str], None] = lambda reason: None,
    will: tuple[str, str] | None = None,
    prepare: Callable[[Client], None] = lambda client: None,
) -> Client:
    """Return a client that is connected, with its thread running.

    `on_connect` is called then and after each new connection, `on_lost` when one is lost, both in the client's thread;
    `will` is a topic and what the broker says there, retained, when we are gone; `prepare` sets other callbacks. The
    client's user data is the most bytes that the broker takes in a packet, None where it does not say. Raises
    `FailureError` if the broker cannot be reached or takes us not, `UsageError` for certificates that cannot be read.
    """
    client = _client(broker)
    if will:
        client.will_set(*will, qos=1, retain=True)
    prepare(client)
    answered, refusal = threading.Event(), list[str]()

    def connected(client: Client, _: Any, __: Any, reason: Any, told: Any) -> None:
        if reason.is_failure:
            hint = ": an older broker takes protocol=3.1.1" if "protocol" in str(reason).lower() else ""
            refusal[:] = [f"{reason}{hint}"]  # the latest: a broker may refuse us for months
        else:
            client.user_data_set(getattr(told, "MaximumPacketSize", None))
            on_connect(client)
        answered.set()

    client.on_connect = connected
    client.on_disconnect = lambda client, _, __, reason, ___: on_lost(str(reason))
    try:
        client.connect(broker.host, broker.port, KEEP_ALIVE_S, clean_start=_clean(broker))
    except (OSError, ValueError) as error:
        raise FailureError(f"the broker {broker} cannot be reached: {_reason(error)}") from error
    client.loop_start()
    if not answered.wait(broker.options.timeout) or refusal:
        client.disconnect()
        client.loop_stop()
        why = f"refuses the connection: {refusal[0]}" if refusal else f"says nothing for {broker.options.timeout:g} s"
        raise FailureError(f"the broker {broker} {why}")
    return client


def _client(broker: Broker) -> Client:
    try:
        from paho.mqtt import client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion
    except ModuleNotFoundError as error:
        raise MissingDependencyError("MQTT", "paho-mqtt", "mqtt") from error
    options = broker.options
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=options.client_id or f"edgernn-{socket.gethostname()}-{broker.topic.replace('/', '-')}",
        protocol=mqtt.MQTTv5 if options.protocol == "5" else mqtt.MQTTv311,
    )
    client.connect_timeout = options.timeout
    client.reconnect_delay_set(*RECONNECT_S)
    if options.user is not None:
        client.username_pw_set(options.user, options.password.reveal() if options.password else None)
    if broker.tls:
        client.tls_set_context(client_tls(options.ca, options.cert, options.key))
    return client


def _clean(broker: Broker) -> Any:
    from paho.mqtt import client as mqtt

    return True if broker.options.protocol == "5" else mqtt.MQTT_CLEAN_START_FIRST_ONLY


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _shown(uri: str) -> str:
    scheme, slashes, rest = uri.partition("//")
    return f"{scheme}{slashes}{rest.rpartition('@')[2]}"
