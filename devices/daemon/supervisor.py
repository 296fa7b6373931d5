"""The main thread of the daemon: starts all, watches over it, reloads, and brings it to an end."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from edgernn.devices import sinks, sources
from edgernn.devices.daemon.check import check_places
from edgernn.devices.daemon.config import Config, HttpConfig, PipelineConfig, SinkConfig
from edgernn.devices.daemon.counters import Counters, DaemonCounters
from edgernn.devices.daemon.delivery import Delivery
from edgernn.devices.daemon.listener import OF_STALL, Listener
from edgernn.devices.daemon.notify import Notify
from edgernn.devices.daemon.outbox import Outbox
from edgernn.devices.daemon.prepare import Prepared
from edgernn.devices.daemon.ready import Ready, same_place
from edgernn.devices.daemon.signals import signals
from edgernn.devices.daemon.wake_counters import WakeCounters
from edgernn.devices.daemon.wake_words import WakeWords
from edgernn.devices.daemon.web import WebServer
from edgernn.devices.daemon.wyoming_server import WyomingServer
from edgernn.devices.sources.pieces import Pieces
from edgernn.errors import EdgeRNNError, FailureError
from edgernn.event_stream import EventStream
from edgernn.events import Event, Message, Stamp
from edgernn.stream import Source

__all__ = ["Supervisor"]

TICK_S = 0.25
CALM_TICK_S = 1.0
YOUNG_S = 10.0
DRAIN_S = 1.6  # of the two seconds that an end may take
SOURCES_END_S = 0.4
WAKE_END_S = 0.3
START_EXTENSION_S = 30.0
PROVEN_S = 10.0  # how long the daemon must outlive new artifacts
HEARING = ("starting", "running")  # states of a source that is well
AT_START = ("queue", "state", "log", "level")
END = {signal.SIGTERM, signal.SIGINT}

_log = logging.getLogger(__name__)


class Supervisor:
    """Runs the daemon of a configuration; `load` reads it anew at each reload."""

    def __init__(self, load: Callable[[], Config], notify: Notify | None = None) -> None:
        self._load = load
        self._notify = notify or Notify()
        self.counters = DaemonCounters()
        self._listeners: dict[str, Listener] = {}
        self._deliveries: dict[str, Delivery] = {}
        self._sink_configs: Mapping[str, SinkConfig] = {}
        self._leaving: list[Delivery] = []  # which had to go at a reload, and may still deliver
        self._unswept = False
        self._wake: WyomingServer | None = None
        self._web: WebServer | None = None
        self._stamp = Stamp()
        self._reload: _Reload | None = None
        self._reload_again = False
        self._status = ""
        self._fed_s = self._extended_s = -float("inf")
        self._applied_s: float | None = None  # when artifacts took over that are not proven yet

    def run(self) -> int:
        """Run until a signal, or until every source has ended; return the exit status."""
        with signals() as wait:
            self._run(wait)
        return 0

    def _run(self, wait: Callable[[float], set[int]]) -> None:
        self._config = config = self._load()
        check_places(config)
        _make_folder(config.folder)
        ready = Ready.of(config, self.counters.refused_artifacts, {}, None)
        outbox = Outbox(config.folder / "outbox.sqlite", config.queue.most_events, config.queue.most_bytes)
        self.counters.outbox = self._outbox = outbox
        try:
            self._open_web(config.http)
            self._offer(ready.words)
            self._apply(ready)
            self._wait_until_ready(wait)
            self._watch(wait)
            self._prove()
        finally:
            self._drain(wait)
            self._open_web(None)
            outbox.close()

    def _open_web(self, config: HttpConfig | None) -> None:
        if self._web is not None and self._web.config != config:
            self._web.stop()
            self._web = None
        if self._web is None and config is not None:
            self._web = WebServer(config, self.counters)
            self._web.start()

    def _wait_until_ready(self, wait: Callable[[float], set[int]]) -> None:
        """Wait until every source is open; raise what stands against one for ever."""
        while not all(listener.opened for listener in self._listeners.values()):
            self._raise_fatal()
            self._tend()
            self._extend()
            young = time.monotonic() - self.counters.started_s < 1
            caught = wait(0.01 if young else TICK_S)
            if caught & END:
                return
            self._tend_reload(caught)
        self.counters.ready = True
        self._notify.ready()
        _log.info("ready: %s", self._names())

    def _raise_fatal(self) -> None:
        for listener in self._listeners.values():
            if listener.fatal is not None:
                raise listener.fatal

    def _extend(self) -> None:
        """Have systemd wait longer, now and then: it is not the daemon's fault that a device is not there."""
        if time.monotonic() - self._extended_s > START_EXTENSION_S / 3:
            self._extended_s = time.monotonic()
            self._notify.extend(START_EXTENSION_S)

    def _watch(self, wait: Callable[[float], set[int]]) -> None:
        if not self.counters.ready:
            return
        while self._wake or not all(listener.ended for listener in self._listeners.values()):
            self._tend()
            caught = wait(self._tick_s)
            if caught & END:
                return
            self._tend_reload(caught)
        self._raise_fatal()

    @property
    def _tick_s(self) -> float:
        """How long nothing needs looking after, but for signals: longer once all is well, since a wake-up costs."""
        counters = self.counters
        calm = self._reload is None and all(one.state == "running" for one in counters.pipelines.values())
        if not calm or time.monotonic() - counters.started_s < YOUNG_S:
            return TICK_S
        stalls_s = (listener.stall_s for listener in self._listeners.values() if listener.stall_s)
        return max(TICK_S, min(CALM_TICK_S, min(stalls_s, default=CALM_TICK_S) / 4))

    def _tend_reload(self, caught: Collection[int]) -> None:
        if signal.SIGHUP in caught:
            self._begin_reload(self._load)
        elif self._reload is None and self._ready.watch.has_changed():
            self._begin_reload(lambda: self._ready.config)
        if self._reload is not None and self._reload.done:
            self._end_reload(self._reload)

    def _tend(self) -> None:
        """Look after every pipeline, and tell systemd."""
        self._sweep()
        well = [listener.tend() for listener in self._listeners.values()]
        well += [self._wake.tend()] if self._wake else []
        now, watchdog_s = time.monotonic(), self._notify.watchdog_s
        self.counters.healthy, self.counters.tended_s = all(well), now
        if all(well) and watchdog_s and now - self._fed_s >= min(watchdog_s / 4, 5.0):
            self._notify.alive()
            self._fed_s = now
        if self._applied_s is not None and now - self._applied_s > PROVEN_S and self._reload is None:
            self._prove()
        status = self._words()
        if status != self._status:
            self._notify.status(status)
            self._status = status

    def _prove(self) -> None:
        """Note that the artifacts do not end the process."""
        if self._applied_s is not None:
            self._applied_s = None
            self._ready.store.prove()

    def _names(self) -> str:
        unfit = self.counters.unfit_artifacts
        names = [*self._listeners, *(["wake"] if self._wake else [])]
        return ", ".join(f"{name} (with its last good artifact)" if name in unfit else name for name in names)

    def _words(self) -> str:
        states = (f"{name} {counters.state}" for name, counters in self.counters.pipelines.items())
        wake = [f"wake {self.counters.wake.clients} clients"] if self._wake and self.counters.wake else []
        faults = (f"sink {name} fails" for name, delivery in self._deliveries.items() if delivery.fault)
        return ", ".join([*states, *wake, *faults])

    def _begin_reload(self, load: Callable[[], Config]) -> None:
        if self._reload is not None:
            self._reload_again = True
            return
        if self.counters.ready:  # else it still starts, as systemd sees it
            self._notify.reloading()
        running = {name: listener.hearing.latest for name, listener in self._listeners.items()}
        words = self._wake.words if self._wake else None
        refused = self.counters.refused_artifacts
        hearing = {name for name, one in self._listeners.items() if one.opened and one.counters.state in HEARING}
        self._reload = _Reload(
            lambda config: Ready.of(config, refused, running, words, hearing), load, self._ready.config
        )

    def _end_reload(self, reload: _Reload) -> None:
        self._reload = None
        ready, error = reload.ready, reload.error
        if ready is not None:
            try:
                self._offer(ready.words)
            except FailureError as cannot_listen:
                error = cannot_listen
        if error is not None or ready is None:
            self.counters.refused_reloads += 1
            _log.error("the new configuration is refused, the old one goes on: %s", error)
        else:
            self._apply(ready)
            self._warn_of_what_stays(ready.config)
            try:
                self._open_web(ready.config.http)
            except EdgeRNNError as problem:
                _log.error("there is no live page, all else is reloaded: %s", problem)
            self.counters.reloads += 1
            _log.info("reloaded: %s", self._names())
        if self.counters.ready:
            self._notify.ready()
        if self._reload_again:
            self._reload_again = False
            self._begin_reload(self._load)

    def _warn_of_what_stays(self, config: Config) -> None:
        """Say which keys count from the next start on."""
        names = [name for name in AT_START if getattr(config, name) != getattr(self._config, name)]
        if names:
            _log.warning("%s changed, which counts from the next start on", " and ".join(names))

    def _apply(self, ready: Ready) -> None:
        """Go over to a configuration."""
        self._ready, config, prepared = ready, ready.config, ready.prepared
        self._applied_s = time.monotonic()
        used = {name for part in (*config.pipelines.values(), config.wake) if part for name in part.sinks}
        sink_configs = {name: sink for name, sink in config.sinks.items() if name in used}
        self._open_sinks(sink_configs, [*prepared.values(), *(self._wake.words.prepared if self._wake else ())])
        for name in set(self._listeners) - set(prepared):
            self._end(self._listeners.pop(name))
        for name, fresh in prepared.items():
            old = self._listeners.get(name)
            if old is not None and old.fatal is None and _same_source(old.hearing.latest, fresh):
                old.hearing.take_over(fresh)
                continue
            counters = self.counters.pipelines.get(name) or Counters(name)
            if old is not None:
                self._end(old)
            self._listeners[name] = Listener(fresh, _open_source, self._put, counters)
            self._listeners[name].start()
        ready.forget_others()
        self._note_unfit(ready.store.unfit)
        self.counters.pipelines = {name: listener.counters for name, listener in self._listeners.items()}
        for counters in self.counters.pipelines.values():
            counters.shown = config.http is not None

    def _note_unfit(self, reasons: Mapping[str, str]) -> None:
        """Have `/health` say whose last good artifact goes on, since when and why."""
        before, now = self.counters.unfit_artifacts, time.monotonic()
        self.counters.unfit_artifacts = {
            name: (before[name][0] if name in before else now, f"artifact refused: {why}; the last good one goes on")
            for name, why in reasons.items()
        }

    def _offer(self, words: WakeWords | None) -> None:
        """Go over to other wake words, or to none; raise `FailureError`, with nothing changed, if it cannot listen."""
        old = self._wake
        if old and words and old.words.config.listen == words.config.listen:
            old.take_over(words)
            return
        if words:
            self.counters.wake = self.counters.wake or WakeCounters()
            self._wake = WyomingServer(words, self._put, self.counters.wake)
            self._wake.start()
        else:
            self._wake = None
        if old:
            old.stop(WAKE_END_S)

    def _open_sinks(self, configs: Mapping[str, SinkConfig], prepared: Collection[Prepared]) -> None:
        """Open sinks in threads of theirs, and end others, without waiting for any."""
        for name in list(self._deliveries):
            if configs.get(name) != self._sink_configs[name]:  # it is gone, or another one by that name
                self._leaving.append(self._deliveries.pop(name))
                self._leaving[-1].end(0.0 if name in configs else DRAIN_S)  # another one delivers what waits
        self._unswept = True
        before = {delivery.name: delivery for delivery in self._leaving}
        for name, config in configs.items():
            if name not in self._deliveries:
                words = [word for one in prepared if name in one.config.sinks for word in one.names]
                opener = sinks.sink_opener(config.uri, config.options, list(dict.fromkeys(words)))
                self._deliveries[name] = Delivery(name, opener, self._outbox, after=before.get(name))
                self._deliveries[name].start()
        self._sink_configs = configs
        self.counters.sinks = dict(self._deliveries)
        self._sweep()

    def _sweep(self) -> None:
        """Give up what waits for sinks that are gone, once these had their time."""
        self._leaving = [delivery for delivery in self._leaving if delivery.alive and not delivery.overdue]
        if self._unswept and not self._leaving:
            self._unswept = False
            self._outbox.retain(self._sink_configs)

    def _put(self, config: PipelineConfig, event: Event) -> Message:
        message = self._stamp(config.name, event)
        self._outbox.put(message, config.sinks)
        return message

    def _end(self, listener: Listener) -> None:
        listener.stop()
        if not listener.join(SOURCES_END_S):
            _log.warning("%s: its source does not end, and is left to itself", listener.counters.name)

    def _drain(self, wait: Callable[[float], set[int]]) -> None:
        """End all within two seconds: the sources first, then what is in the outbox, as far as the sinks take it."""
        self._notify.stopping()
        self.counters.ready = False
        deadline = time.monotonic() + DRAIN_S
        if self._wake:
            self._wake.stop(WAKE_END_S)
        for listener in self._listeners.values():
            listener.stop()
        sources_deadline = min(deadline, time.monotonic() + SOURCES_END_S)
        for listener in self._listeners.values():
            listener.join(sources_deadline - time.monotonic())
        threads = [
            threading.Thread(target=delivery.stop, args=(deadline - time.monotonic(),), daemon=True)
            for delivery in self._deliveries.values()
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
            if wait(0.02) & END:
                return


class _Reload:
    """Reads and prepares a new configuration in a thread, beside the old one that goes on."""

    def __init__(self, make_ready: Callable[[Config], Ready], load: Callable[[], Config], running: Config) -> None:
        self.ready: Ready | None = None
        self.error: Exception | None = None
        self._make_ready, self._load, self._running = make_ready, load, running
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            config = self._load()
            check_places(config, self._running)
            self.ready = self._make_ready(config)
        except Exception as error:
            self.error = error


def _same_source(one: Prepared, other: Prepared) -> bool:
    old, new = one.stream, other.stream
    same = (old.rate_hz, old.frame_shape) == (new.rate_hz, new.frame_shape)
    return same and same_place(one.config, other.config)


def _open_source(config: PipelineConfig, stream: EventStream, quiet: Callable[[], int]) -> Source:
    longest_ms = min(config.chunk_ms, 1000 * OF_STALL * config.stall_s or config.chunk_ms)
    pieces = Pieces.of(stream, longest_ms, quiet)
    return sources.open_source(
        config.source.uri, stream.rate_hz, config.fast, config.source.options, stream.frame_shape, pieces
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FailureError(
            f"the folder {folder} for what outlives the daemon cannot be made: {error.strerror}; name another: state"
        ) from error
