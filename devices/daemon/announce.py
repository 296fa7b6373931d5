"""The wake-word server made known in the local network by multicast DNS, so that Home Assistant finds it by itself."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from importlib.util import find_spec
from typing import Any

from edgernn.errors import MissingDependencyError, UsageError

__all__ = ["Announcement", "check_announce"]

SERVICE = "_wyoming._tcp.local."
LOOK_S = 30.0  # how often the machine's addresses are looked at: the network may come later, and change
ANY = "0.0.0.0"

_log = logging.getLogger(__name__)


def check_announce(host: str) -> None:
    """Raise `UsageError` where a server at `host` cannot be announced, `MissingDependencyError` without the library."""
    if ":" in host:
        raise UsageError(f"wake.announce is for IPv4, and wake.listen is {host}: listen at tcp://{ANY}:10400")
    if find_spec("zeroconf") is None:
        raise MissingDependencyError("the key wake.announce", "zeroconf", "zeroconf")


class Announcement:
    """Says that a server listens at `host` and `port`, in a thread, from `start` to `stop`."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.name = f"edgernn-{socket.gethostname().partition('.')[0]}-{port}"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="announce", daemon=True)
        if host.startswith("127.") or host == "localhost":
            _log.warning("wake.announce: nobody but this machine can reach %s: set wake.listen to tcp://%s", host, ANY)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Take it back, and wait for that."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        said: list[str] = []
        fault, speaker = "", None
        while True:
            try:
                found = _addresses(self._host)
                if found != said:
                    _close(speaker)
                    said, speaker = [], None
                    speaker = self._say(found)
                    said, fault = found, ""
            except Exception as error:  # whatever a network may do: it is tried again
                if str(error) != fault:
                    _log.warning("the wake words cannot be announced, it is tried again: %s", error)
                fault = str(error)
            if self._stopping.wait(LOOK_S):
                _close(speaker)
                return

    def _say(self, addresses: list[str]) -> Any:
        """Return what answers for us from now on; None where there is no network."""
        if not addresses:
            return None
        from zeroconf import IPVersion, ServiceInfo, Zeroconf

        speaker = Zeroconf(interfaces=addresses, ip_version=IPVersion.V4Only)
        try:
            info = ServiceInfo(
                SERVICE,
                f"{self.name}.{SERVICE}",
                port=self._port,
                parsed_addresses=addresses,
                server=f"{self.name}.local.",
            )
            speaker.register_service(info, allow_name_change=True)
        except BaseException:
            _close(speaker)
            raise
        _log.info("wake words announced as %s at %s", info.name.partition(".")[0], ", ".join(addresses))
        return speaker


def _addresses(host: str) -> list[str]:
    """Return the machine's IPv4 addresses that others reach, or the one that is listened at."""
    if host != ANY:
        return [socket.gethostbyname(host)]
    import ifaddr

    found = (ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str))
    return sorted(one for one in found if not one.startswith("127."))


def _close(speaker: Any) -> None:
    """Say that we are gone, and close."""
    if speaker is not None:
        with contextlib.suppress(Exception):
            speaker.unregister_all_services()
        speaker.close()
