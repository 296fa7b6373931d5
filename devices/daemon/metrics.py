"""The daemon's counters as Prometheus has them: read when they are asked for, and only then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from edgernn import __version__
from edgernn.devices.boards.vitals import Vitals
from edgernn.devices.daemon.counters import STATES, Counters, DaemonCounters, Histogram
from edgernn.devices.daemon.delivery import Delivery
from edgernn.devices.daemon.wake_counters import WAKE, WakeCounters
from edgernn.errors import MissingDependencyError

if TYPE_CHECKING:  # imported where it is used: a board without [http] does without it
    from prometheus_client.metrics_core import Metric

__all__ = ["Metrics"]

Labelled = Iterable[tuple[list[str], float]]


class Metrics:
    """A collector in a registry of its own: nothing of this process is shown but what stands here.

    Raises `MissingDependencyError` without prometheus-client.
    """

    def __init__(
        self,
        counters: DaemonCounters,
        vitals: Callable[[], Vitals],
        http: Mapping[str, int],
        viewers: Callable[[], int],
    ) -> None:
        self._counters, self._vitals, self._http, self._viewers = counters, vitals, http, viewers
        try:
            from prometheus_client import CollectorRegistry
            from prometheus_client.exposition import choose_encoder
        except ImportError as error:
            raise MissingDependencyError("the table [http]", "prometheus-client", "serve") from error
        self._choose_encoder = choose_encoder
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return all in the format that a client asks for in its header `Accept`, and what that is called."""
        encode, kind = self._choose_encoder(accept)
        return encode(self._registry), kind

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read all counters, as Prometheus asks."""
        yield from _pipelines(self._counters.pipelines)
        yield from self._sinks(self._counters.sinks)
        yield from self._daemon()
        if self._counters.wake is not None:
            yield from _wake(self._counters.wake)
        yield from _board(self._vitals())

    def _sinks(self, sinks: Mapping[str, Delivery]) -> Iterator[Metric]:
        def each(read: Callable[[Delivery], float]) -> Labelled:
            return [([name], read(sink)) for name, sink in sinks.items()]

        outbox = self._counters.outbox
        depths: Labelled = [([name], outbox.depth(name)) for name in sinks] if outbox else []
        yield _gauge("edgernn_queue_events", "Events that wait for a sink.", ["sink"], depths)
        yield _counter("edgernn_sink_events", "Events that a sink took.", ["sink"], each(lambda sink: sink.delivered))
        refused = each(lambda sink: sink.refused)
        yield _counter("edgernn_sink_refused_events", "Events that a sink refused for ever.", ["sink"], refused)
        failures = each(lambda sink: sink.failures)
        yield _counter("edgernn_sink_retries", "Attempts that failed, and are made again.", ["sink"], failures)
        up = each(lambda sink: not sink.fault)
        yield _gauge("edgernn_sink_up", "Whether a sink takes events just now.", ["sink"], up)
        if outbox is not None:
            lost = [([cause], number) for cause, number in sorted(outbox.dropped.copy().items())]
            yield _counter("edgernn_queue_dropped_events", "Events given up, by cause.", ["cause"], lost)
            yield _gauge(
                "edgernn_queue_memory_events", "Events that the disk does not take.", [], [([], outbox.in_memory)]
            )

    def _daemon(self) -> Iterator[Metric]:
        counters, age_s = self._counters, time.monotonic() - self._counters.started_s
        yield _infos("edgernn", "This program.", [], [([], {"version": __version__})])
        yield _gauge("edgernn_uptime_seconds", "Since the daemon started.", [], [([], age_s)])
        yield _gauge("edgernn_ready", "Whether all that was configured has been opened.", [], [([], counters.ready)])
        yield _gauge("edgernn_healthy", "Whether every pipeline makes progress.", [], [([], counters.healthy)])
        reloads = [(["applied"], counters.reloads), (["refused"], counters.refused_reloads)]
        yield _counter("edgernn_reloads", "Configurations that were read anew.", ["result"], reloads)
        parts = [*counters.pipelines, *([WAKE] if counters.wake and counters.wake.listen else [])]
        taken = [([name], counters.refused_artifacts[name]) for name in parts]
        words = "Times that the last good artifact went on, since another one was no good."
        yield _counter("edgernn_artifact_refused", words, ["pipeline"], taken)
        http = [([cause], number) for cause, number in sorted(self._http.items())]
        yield _counter("edgernn_http_dropped", "Requests and viewers of this server dropped.", ["cause"], http)
        yield _gauge("edgernn_http_viewers", "Live pages that are open.", [], [([], self._viewers())])
        cpu_s = time.process_time()
        yield _counter("process_cpu_seconds", "Time that all threads computed.", [], [([], cpu_s)])
        yield _gauge("process_start_time_seconds", "When it started, Unix time.", [], [([], time.time() - age_s)])


def _pipelines(pipelines: Mapping[str, Counters]) -> Iterator[Metric]:
    def each(read: Callable[[Counters], float]) -> Labelled:
        return [([name], read(counters)) for name, counters in pipelines.items()]

    for name, words, read in PLAIN:
        yield _counter(f"edgernn_{name}", words, ["pipeline"], each(read))
    for name, words, label, select in BY_CAUSE:
        chosen = {pipeline: select(counters) for pipeline, counters in pipelines.items()}
        yield _counter(f"edgernn_{name}", words, ["pipeline", label], _by(chosen))
    for name, words, pick in HISTOGRAMS:
        yield _histogram(f"edgernn_{name}_seconds", words, {key: pick(value) for key, value in pipelines.items()})
    yield _gauge(
        "edgernn_level_ratio", "RMS of the latest chunk, full scale is 1.", ["pipeline"], each(lambda c: c.level)
    )
    now = time.monotonic()
    ages = each(lambda counters: max(0.0, now - counters.progress_s))
    yield _gauge("edgernn_progress_age_seconds", "Since frames were processed last.", ["pipeline"], ages)
    yield _states("edgernn_pipeline_state", {name: counters.state for name, counters in pipelines.items()})
    artifacts = [([name], _artifact(counters)) for name, counters in pipelines.items()]
    yield _infos("edgernn_artifact", "What a pipeline runs.", ["pipeline"], artifacts)


def _artifact(counters: Counters) -> dict[str, str]:
    return {"artifact": counters.artifact, "digest": counters.digest, "runtime": counters.runtime}


PLAIN: tuple[tuple[str, str, Callable[[Counters], float]], ...] = (
    ("chunks", "Chunks heard.", lambda counters: counters.chunks),
    ("samples", "Samples heard.", lambda counters: counters.samples),
    ("frames", "Frames that the front end made.", lambda counters: counters.frames),
    ("steps", "Steps of the model.", lambda counters: counters.steps),
    ("deadline_misses", "Chunks that took longer to compute than to say.", lambda counters: counters.deadline_misses),
    ("state_resets", "Gaps after which the state began anew.", lambda counters: counters.resets),
    ("source_reopened", "Times that a source was opened again.", lambda counters: counters.reopened),
    ("handovers", "Times that a new artifact or decoder took over.", lambda counters: counters.reloads),
)

DROPPED = dict.fromkeys(("lost", "late", "gap", "malformed"), 0)  # so that each is there before it happens
FAILURES = dict.fromkeys(("failed", "stalled", "unopened", "step"), 0)
BY_CAUSE: tuple[tuple[str, str, str, Callable[[Counters], Mapping[str, int]]], ...] = (
    ("dropped_samples", "Samples not heard.", "cause", lambda counters: {**DROPPED, **counters.dropped}),
    ("failures", "Failures of a source or a step.", "cause", lambda counters: {**FAILURES, **counters.failures}),
    ("events", "Words that were told.", "word", lambda c: {**dict.fromkeys(c.thresholds, 0), **c.words}),
)

HISTOGRAMS: tuple[tuple[str, str, Callable[[Counters], Histogram]], ...] = (
    ("step", "One step of the model.", lambda counters: counters.step),
    ("compute", "Computing a chunk, from samples to events.", lambda counters: counters.compute),
    ("latency", "From a chunk's last sample to its events in the queue.", lambda counters: counters.latency),
)


def _wake(wake: WakeCounters) -> Iterator[Metric]:
    about: list[tuple[list[str], dict[str, str]]] = (
        [([], {"listen": wake.listen, "words": ", ".join(wake.offered)})] if wake.listen else []
    )
    yield _infos("edgernn_wake", "The wake-word server.", [], about)
    yield _gauge("edgernn_wake_clients", "Clients that are connected.", [], [([], wake.clients)])
    yield _counter("edgernn_wake_connections", "Connections accepted.", [], [([], wake.connections)])
    ended = [([cause], number) for cause, number in sorted(wake.ended.copy().items())]
    yield _counter("edgernn_wake_connections_ended", "Connections by how they ended.", ["cause"], ended)
    yield _counter("edgernn_wake_streams", "Streams of audio that clients began.", [], [([], wake.streams)])
    yield _counter("edgernn_wake_not_detected", "Streams without a word in them.", [], [([], wake.not_detected)])
    words = [([word], number) for word, number in sorted(wake.words.copy().items())]
    yield _counter("edgernn_wake_detections", "Words that were detected for clients.", ["word"], words)
    yield _counter("edgernn_wake_steps", "Steps made for clients.", [], [([], wake.steps)])
    yield _counter("edgernn_wake_sound_seconds", "Sound of clients that was heard.", [], [([], wake.audio_s)])
    yield _counter("edgernn_wake_busy_seconds", "Time spent computing it.", [], [([], wake.busy_s)])


def _board(vitals: Vitals) -> Iterator[Metric]:
    memory = float(vitals.memory_bytes)
    yield _gauge("process_resident_memory_bytes", "What this process has in RAM.", [], [([], memory)])
    if vitals.temperature_c is not None:
        words = "How hot the processor is."
        yield _gauge("edgernn_board_temperature_celsius", words, [], [([], vitals.temperature_c)])
    if vitals.clock_hz is not None:
        yield _gauge("edgernn_board_clock_hertz", "Of the fastest core.", [], [([], vitals.clock_hz)])
    for name, since_start in (("now", False), ("since_start", True)):
        limits = vitals.limits(since_start)
        if limits is not None:
            values = [([cause.replace(" ", "_")], float(holds)) for cause, holds in limits.items()]
            words = "Whether the board is slowed down, by cause." if not since_start else "… or was, since it started."
            yield _gauge(f"edgernn_board_throttled_{name}", words, ["cause"], values)


def _by(counts: Mapping[str, Mapping[str, int]]) -> Labelled:
    """Read counts by cause while other threads may add causes."""
    return [
        ([name, cause], value) for name, counted in counts.items() for cause, value in sorted(dict(counted).items())
    ]


def _counter(name: str, words: str, labels: list[str], values: Labelled) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    metric = CounterMetricFamily(name, words, labels=labels)
    for names, value in values:
        metric.add_metric(names, float(value))
    return metric


def _gauge(name: str, words: str, labels: list[str], values: Labelled) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    metric = GaugeMetricFamily(name, words, labels=labels)
    for names, value in values:
        metric.add_metric(names, float(value))
    return metric


def _histogram(name: str, words: str, histograms: Mapping[str, Histogram]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    metric = HistogramMetricFamily(name, words, labels=["pipeline"])
    for pipeline, histogram in histograms.items():
        total, buckets = 0, []
        for bound, count in zip((*histogram.bounds_s, float("inf")), list(histogram.counts), strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
        metric.add_metric([pipeline], buckets, histogram.sum_s)
    return metric


def _infos(name: str, words: str, labels: list[str], values: Iterable[tuple[list[str], dict[str, str]]]) -> Metric:
    from prometheus_client.core import InfoMetricFamily

    metric = InfoMetricFamily(name, words, labels=labels)
    for names, value in values:
        metric.add_metric(names, value)
    return metric


def _states(name: str, states: Mapping[str, str]) -> Metric:
    from prometheus_client.core import StateSetMetricFamily

    metric = StateSetMetricFamily(name, "What a pipeline does.", labels=["pipeline"])
    for pipeline, found in states.items():
        metric.add_metric([pipeline], {state: found == state for state in STATES})
    return metric
