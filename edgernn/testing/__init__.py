"""Fakes, and checks that runners, sources, sinks and artifacts pass: for the tests of EdgeRNN and of what uses it.

A check takes a function that opens the thing, so that it can open several, and raises `AssertionError` where the
thing breaks its protocol (`edgernn.stream`), or is not the model that it is said to be.
"""

from __future__ import annotations

from edgernn.testing.contract import Near, check_stream_contract
from edgernn.testing.fakes import ArraySource, FakeRunner, ListSink
from edgernn.testing.latency import Whole, impulse_latencies
from edgernn.testing.protocols import check_runner
from edgernn.testing.sinks import check_sink
from edgernn.testing.sources import check_source

__all__ = [
    "ArraySource",
    "FakeRunner",
    "ListSink",
    "Near",
    "Whole",
    "check_runner",
    "check_sink",
    "check_source",
    "check_stream_contract",
    "impulse_latencies",
]
