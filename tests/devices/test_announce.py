"""The wake-word server in multicast DNS, as python-zeroconf's browser (Home Assistant's) finds it; on loopback."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ifaddr
import pytest
from zeroconf import IPVersion, ServiceBrowser, ServiceListener, Zeroconf

from edgernn.artifact import Artifact
from edgernn.devices.daemon import announce
from edgernn.devices.daemon.announce import Announcement, check_announce
from edgernn.devices.daemon.config import WakeConfig
from edgernn.devices.daemon.wake_counters import WakeCounters
from edgernn.devices.daemon.wake_words import WakeWords
from edgernn.devices.daemon.wyoming_server import WyomingServer
from edgernn.errors import MissingDependencyError, UsageError
from tests.devices.mosquitto import until
from tests.devices.wyoming_clients import RawClient


class Seen(ServiceListener):
    """Where each server is, while it is there."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[str, int]] = {}

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        info = zc.get_service_info(type_, name)
        assert info
        assert info.port
        self.places[name.partition(".")[0]] = (info.parsed_addresses()[0], info.port)

    update_service = add_service

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        del self.places[name.partition(".")[0]]


@pytest.fixture
def seen() -> Iterator[Seen]:
    """Return what Home Assistant would see."""
    browser, seen = Zeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only), Seen()
    ServiceBrowser(browser, "_wyoming._tcp.local.", seen)
    yield seen
    browser.close()


@pytest.mark.slow
def test_it_is_found_called_and_gone(seen: Seen, energy_artifact: Artifact, caplog: pytest.LogCaptureFixture) -> None:
    config = WakeConfig((energy_artifact.path,), "tcp://127.0.0.1:0", announce=True)
    server = WyomingServer(WakeWords(config), lambda *_: None, WakeCounters())
    server.start()
    host, port = server.address
    until(lambda: seen.places)
    ((name, place),) = seen.places.items()
    assert place == (host, port)
    assert name.startswith("edgernn-")
    assert name.endswith(f"-{port}")
    with RawClient(place) as client:
        client.send("describe")
        assert [kind for kind, _ in filter(None, [client.receive()])] == ["info"]
    assert "nobody but this machine can reach 127.0.0.1" in caplog.text
    server.take_over(WakeWords(replace(config, announce=False)))
    until(lambda: not seen.places)
    server.take_over(WakeWords(config))
    until(lambda: seen.places)
    begin = time.monotonic()
    server.stop(0.3)
    assert time.monotonic() - begin < 1
    until(lambda: not seen.places)


@pytest.mark.slow
def test_network_that_comes_late_and_changes(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(announce, "LOOK_S", 0.05)
    answers: list[Any] = [OSError("no network")] * 3 + [[]] * 3
    there = ["127.0.0.1"]

    def addresses(_: str) -> list[str]:
        if not answers:
            return there
        answer = answers.pop()
        if isinstance(answer, OSError):
            raise answer
        return list(answer)

    monkeypatch.setattr(announce, "_addresses", addresses)
    one, other = Announcement("0.0.0.0", 10400), Announcement("0.0.0.0", 10400)
    with caplog.at_level(logging.INFO):
        one.start()
        until(lambda: seen.places)
        assert caplog.text.count("cannot be announced") == 1
        other.start()  # of the same name: another daemon in another container
        until(lambda: len(seen.places) == 2)
        there = ["127.0.0.2"]
        until(lambda: {address for address, _ in seen.places.values()} == {"127.0.0.2"})
        for announcement in (one, other):
            announcement.stop(5)
        until(lambda: not seen.places)


def test_addresses_are_those_that_others_reach() -> None:
    ours = {ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips}
    found = announce._addresses("0.0.0.0")
    assert set(found) <= ours
    assert not [address for address in found if address.startswith("127.")]
    assert announce._addresses("localhost") == ["127.0.0.1"]


def test_what_cannot_be_announced(monkeypatch: pytest.MonkeyPatch, energy_artifact: Artifact) -> None:
    with pytest.raises(UsageError, match=r"wake.announce is for IPv4, and wake.listen is ::1"):
        WakeWords(WakeConfig((energy_artifact.path,), "tcp://[::1]:0", announce=True))
    monkeypatch.setattr(announce, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"edgernn\[zeroconf\]"):
        check_announce("0.0.0.0")
    WakeWords(WakeConfig((energy_artifact.path,), "tcp://[::1]:0"))


def test_a_unit_lets_it_look_for_addresses(tmp_path: Path, energy_artifact: Artifact) -> None:
    from edgernn.devices.daemon.load import load
    from edgernn.devices.daemon.unit import _network

    file = tmp_path / "edge.toml"
    for more, family in (("", ""), ("announce = true", " AF_NETLINK")):
        file.write_text(f'[wake]\nartifact = "energy"\nlisten = "tcp://0.0.0.0:10400"\n{more}\n')
        assert list(_network(load(file, {}))) == [f"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6{family}"]
