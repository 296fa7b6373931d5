"""What the tables of all sources and of all sinks are made with."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgernn.devices.secret import Secret
from tests.devices.certificates import make_certificates
from tests.devices.mosquitto import MOSQUITTO, Mosquitto
from tests.devices.needs import needs

__all__ = ["ANNA", "Bench", "Row", "Table", "mosquitto", "slow", "socat"]

ANNA = {"user": "anna", "password": Secret("text", "secret of anna")}


slow = pytest.mark.slow
socat = needs(shutil.which("socat") is None, "socat")
mosquitto = needs(MOSQUITTO is None, "mosquitto")


@dataclass
class Bench:
    """A folder, what is set back at the end, and what is stopped then."""

    folder: Path
    patch: pytest.MonkeyPatch
    stack: ExitStack
    capsys: pytest.CaptureFixture[str]

    def broker(self) -> Mosquitto:
        """Start a broker."""
        broker = Mosquitto(self.folder)
        broker.start()
        self.stack.callback(broker.kill)
        return broker

    def tls(self) -> tuple[ssl.SSLContext, Path]:
        """Return what a server has, and the certificate that its clients trust."""
        files = make_certificates(self.folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.cert, files.key)
        return context, files.ca


Row = Callable[[Bench], Mapping[str, Any]]
"""Returns what `check_source` or `check_sink` is called with."""


@dataclass
class Table:
    """Rows by scheme of the URI, and what is special about each."""

    rows: dict[str, tuple[Row, tuple[pytest.MarkDecorator, ...]]] = field(default_factory=dict)

    def __call__(self, name: str, *marks: pytest.MarkDecorator) -> Callable[[Row], Row]:
        """Add a row: a decorator."""

        def add(row: Row) -> Row:
            self.rows[name] = row, marks
            return row

        return add

    @property
    def schemes(self) -> set[str]:
        """Those that have a row."""
        return {name.partition(":")[0] for name in self.rows}

    def params(self) -> list[Any]:
        """Return the rows for `pytest.mark.parametrize`."""
        return [pytest.param(row, id=name, marks=marks) for name, (row, marks) in self.rows.items()]
