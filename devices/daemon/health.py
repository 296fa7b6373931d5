"""Whether the daemon is well: what `/health`, `/ready` and the live page say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from edgernn.devices.daemon.counters import DaemonCounters

__all__ = ["health", "ready"]

UNTENDED_S = 5.0  # how long the main thread may leave the pipelines to themselves
NOT_OPEN = ("reopening", "failed")


def health(counters: DaemonCounters) -> tuple[bool, dict[str, Any]]:
    """Return whether the process makes progress, and what each part of it does.

    A source that is gone, or a sink, is no reason to restart the process: it is opened again as soon as it is back.
    """
    now = time.monotonic()
    tended = now - counters.tended_s <= UNTENDED_S
    pipelines = {
        name: {"state": pipeline.state, "progress_age_s": _age(now, pipeline.progress_s), "error": pipeline.error}
        for name, pipeline in counters.pipelines.items()
    }
    depth = counters.outbox.depth if counters.outbox is not None else lambda _: 0
    sinks = {
        name: {"waiting": depth(name), "delivered": sink.delivered, "refused": sink.refused, "fault": sink.fault}
        for name, sink in counters.sinks.items()
    }
    well = counters.healthy and tended
    return well, {
        "healthy": well,
        "uptime_s": _age(now, counters.started_s),
        "tended_age_s": _age(now, counters.tended_s),
        "down": list(_down(counters, now)),
        "pipelines": pipelines,
        "sinks": sinks,
        **_wake(counters),
    }


def _down(counters: DaemonCounters, now: float) -> Iterator[dict[str, Any]]:
    """Yield what does not work just now, for how long, and why."""
    for name, pipeline in counters.pipelines.items():
        if pipeline.state in NOT_OPEN:
            yield {"what": f"source of {name}", "for_s": _age(now, pipeline.state_since_s), "why": pipeline.error}
        elif (malformed := pipeline.malformed) is not None:
            yield {"what": f"source of {name}", "for_s": _age(now, malformed[0]), "why": malformed[1]}
    for name, (since_s, why) in counters.unfit_artifacts.items():
        yield {"what": f"artifact of {name}", "for_s": _age(now, since_s), "why": why}
    for name, sink in counters.sinks.items():
        if (fault := sink.fault) is not None:
            yield {"what": f"sink {name}", "for_s": _age(now, sink.fault_since_s), "why": fault}
    outbox = counters.outbox
    if outbox is not None and outbox.fault is not None:
        yield {"what": "queue on disk", "for_s": _age(now, outbox.fault_since_s), "why": outbox.fault}


def _wake(counters: DaemonCounters) -> dict[str, Any]:
    wake = counters.wake
    if wake is None or not wake.listen:
        return {}
    return {"wake": {"listen": wake.listen, "words": list(wake.offered), "clients": wake.clients}}


def ready(counters: DaemonCounters) -> tuple[bool, dict[str, Any]]:
    """Return whether every pipeline has its source open, and which have not."""
    waiting = {name: pipeline.state for name, pipeline in counters.pipelines.items() if pipeline.state in NOT_OPEN}
    open_ = counters.ready and not waiting
    return open_, {"ready": open_, "started": counters.ready, "not_open": waiting}


def _age(now_s: float, since_s: float) -> float:
    return round(max(0.0, now_s - since_s), 3)
