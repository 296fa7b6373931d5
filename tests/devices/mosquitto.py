"""A real broker for tests: Mosquitto, started by hand, with a plain listener and one with TLS, a password on both."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.devices.certificates import Certificates, make_certificates
from tests.devices.needs import needs

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
needs_mosquitto = needs(MOSQUITTO is None, "mosquitto")
CONFIGURATION = """
user root
allow_anonymous false
password_file {folder}/passwords
acl_file {folder}/acl
persistence true
max_packet_size 50000
persistence_location {folder}/
autosave_interval 1
listener {port} 127.0.0.1
listener {tls_port} 127.0.0.1
certfile {cert}
keyfile {key}
"""
ACL = "user anna\ntopic readwrite #\n\nuser reader\ntopic read #\n"


class Mosquitto:
    """The broker: `start`, `kill`, and start again."""

    def __init__(self, folder: Path) -> None:
        self.certificates: Certificates = make_certificates(folder)
        self.port, self.tls_port = _free_port(), _free_port()
        passwords = folder / "passwords"
        for number, user in enumerate(("anna", "reader")):
            words = [
                "mosquitto_passwd",
                "-b",
                *(["-c"] if number == 0 else []),
                str(passwords),
                user,
                f"secret of {user}",
            ]
            subprocess.run(words, check=True, capture_output=True)
        (folder / "acl").write_text(ACL)
        files = self.certificates
        text = CONFIGURATION.format(
            folder=folder, port=self.port, tls_port=self.tls_port, cert=files.cert, key=files.key
        )
        self._file = folder / "mosquitto.conf"
        self._file.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert MOSQUITTO
        self._process = subprocess.Popen([MOSQUITTO, "-c", self._file], stderr=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.tls_port), 1).close()
                return
            except OSError:
                assert time.monotonic() < end, "Mosquitto does not start"
                time.sleep(0.01)

    def kill(self) -> None:
        """Kill it with -9."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def signal(self, number: int) -> None:
        """Send it a signal, such as SIGSTOP, after which it says nothing, though every connection stays open."""
        assert self._process
        self._process.send_signal(number)

    def uri(self, topic: str, tls: bool = False) -> str:
        """Return where a topic is."""
        return f"mqtts://127.0.0.1:{self.tls_port}/{topic}" if tls else f"mqtt://127.0.0.1:{self.port}/{topic}"


class Listener:
    """Whoever subscribes: keeps what comes, in order, through restarts of the broker (its session persists)."""

    def __init__(self, broker: Mosquitto, topics: str = "#") -> None:
        self.heard: list[tuple[str, str]] = []
        """Topics and what came."""
        self._topics = topics
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, f"listener-{topics}", clean_session=False)
        self.client.username_pw_set("anna", "secret of anna")
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._connected
        self.client.on_message = lambda _, __, message: self.heard.append((message.topic, message.payload.decode()))
        self.subscribed = 0
        self.client.on_subscribe = self._subscribed
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        until(lambda: self.subscribed > 0)

    def _connected(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe(self._topics, qos=1)

    def _subscribed(self, *_: Any) -> None:
        self.subscribed += 1

    def payloads(self, topic: str) -> list[str]:
        """Return what came to a topic."""
        return [payload for one, payload in list(self.heard) if one == topic]

    def close(self) -> None:
        """Disconnect."""
        self.client.disconnect()
        self.client.loop_stop()


def until(condition: Any, within_s: float = 10.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port
