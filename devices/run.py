"""`edgernn run`: an artifact on a recording or on live sound.

edgernn run ARTIFACT recording.wav --fast
edgernn run ARTIFACT --source mic: --sink json:events.jsonl
arecord -q -f S16_LE -r 16000 -c 1 -t raw | edgernn run ARTIFACT --source -
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from edgernn.artifact import Artifact
from edgernn.decode.keyword import KeywordSpec
from edgernn.devices import decoders, sinks, sources
from edgernn.devices.decoders import DecoderSpec, decoder_spec_of, names_of, read_decoder, with_threshold
from edgernn.devices.pipeline import open_stream
from edgernn.devices.runner import CHOICES, RUNTIMES, runtime_on
from edgernn.devices.sources.listing import list_devices, list_sensors
from edgernn.devices.sources.pieces import Pieces
from edgernn.errors import AudioError, EdgeRNNError, UsageError
from edgernn.event_stream import EventStream
from edgernn.events import Stamp
from edgernn.stream import Sink, Source
from edgernn.text import table

__all__ = ["main", "pump"]

BEHIND_S = 1.0  # that a live source may lag behind the clock: it takes a while to begin


def main(arguments: Sequence[str], prog: str) -> int:
    """Run the command; return the exit status."""
    options = _parser(prog).parse_args(arguments)
    if options.list_devices:
        return _list_devices()
    if options.artifact is None:
        raise UsageError("name the artifact to run: a folder that edgernn convert wrote")
    if options.duration is not None and not 0 < options.duration < float("inf"):
        raise UsageError(f"--duration must be a number of seconds above 0, not {options.duration:g}")
    artifact = Artifact.open(options.artifact)
    sound = artifact.front_end is not None
    uri = _source_uri(options, sound)
    decoder = read_decoder(options.decoder) if options.decoder else decoder_spec_of(artifact)
    decoder = _with_thresholds(decoder, options.threshold, artifact.labels)
    rate_hz = None if sound else sources.frame_rate(uri)
    stream = open_stream(
        artifact, runtime_on(artifact, options.runtime, options.provider), options.threads, decoder, rate_hz
    )
    sink = sinks.open_sink(options.sink, words=names_of(decoder, artifact))
    pieces = Pieces.of(stream, quiet=lambda: stream.quiet_samples)
    source = sources.open_source(uri, stream.rate_hz, options.fast, shape=stream.frame_shape, pieces=pieces)
    print(f"{artifact.name} in {stream.runner.runtime}; Ctrl-C ends", file=sys.stderr)
    busy_s = pump(source, stream, sink, options.duration, sources.is_live(uri))
    print(_summary(stream, busy_s), file=sys.stderr)
    return 0


def _list_devices() -> int:
    try:
        found = list_devices()
    except EdgeRNNError as error:  # it cannot be told which microphones there are
        found = list_sensors()
        if not found:
            raise
        print(f"no microphones: {error}", file=sys.stderr)
    if not found:
        raise AudioError(
            "there is no microphone, camera, serial line or sensor: plug one in, or give --source a recording or "
            "standard input"
        )
    print(table(["--source", ""], found))
    return 0


def pump(source: Source, stream: EventStream, sink: Sink, duration_s: float | None = None, live: bool = False) -> float:
    """Bring sound from the source through the stream to the sink, until its end, an interrupt, or `duration_s`.

    That is measured in what comes; a `live` source, of which nothing may come, ends soon after by the clock too.
    Returns the seconds that computing took; waiting for sound does not count. Closes source and sink.
    """
    patience_s = duration_s + BEHIND_S if duration_s is not None and live else None
    busy_s, most = 0.0, float("inf") if duration_s is None else duration_s * stream.rate_hz
    stamp = Stamp()
    with contextlib.closing(sink), contextlib.closing(source), _closed_after(source, patience_s), _interrupts_end():
        for chunk in source:
            before = time.perf_counter()
            room = min(len(chunk.samples), most - stream.samples)
            for event in stream.push(chunk.samples[: int(room)], chunk.lost):
                sink.write(stamp("run", event))
            busy_s += time.perf_counter() - before
            if stream.samples >= most:
                break
    return busy_s


@contextlib.contextmanager
def _closed_after(source: Source, seconds: float | None) -> Iterator[None]:
    """Close a source that is still read after so long, which ends it; None: never."""
    timer = threading.Timer(min(seconds or 0.0, threading.TIMEOUT_MAX), source.close)
    timer.daemon = True  # closing may hang, in a device that is gone
    if seconds is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _interrupts_end() -> Iterator[None]:
    """Let SIGTERM be as SIGINT, and either one end the block and nothing else."""
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _summary(stream: EventStream, busy_s: float) -> str:
    seconds = stream.samples / stream.rate_hz
    factor = f"{busy_s / seconds:.4f}" if seconds else "–"
    what, lost = ("frames", "frames") if stream.frame_shape else ("sound", "samples")
    held = "".join(f", {count} {cause}" for cause, count in stream.dropped.items())
    median_us = f"{np.median(stream.step_us):.1f}" if stream.step_us else "–"
    return (
        f"{seconds:.2f} s of {what}, real-time factor {factor}, {stream.frames} frames, {stream.steps} steps "
        f"of {median_us} µs (median), {stream.lost} {lost} lost{held}, {stream.events} events"
    )


def _with_thresholds(spec: DecoderSpec, texts: Sequence[str], labels: tuple[str, ...]) -> DecoderSpec:
    for text in texts:
        word, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise UsageError(f"a threshold is a number or WORD=NUMBER, not '{text}'") from None
        if isinstance(spec, KeywordSpec) and not 0 < value <= 1:
            raise UsageError(f"--threshold must be above 0 and at most 1, not '{text}'")
        spec = with_threshold(spec, {word: value} if equals else value, labels)
    return spec


def _source_uri(options: argparse.Namespace, sound: bool) -> str:
    if options.recording is not None and options.source is not None:
        raise UsageError(f"two sources are named, {options.recording} and {options.source}: name one")
    uri: str = options.recording or options.source or ("mic:" if sound else "")
    if not uri:
        raise UsageError(f"{options.artifact} takes frames, not sound: name their --source, such as csv:PATH")
    if options.rate is None:
        return uri
    if uri not in ("-", "stdin:"):
        raise UsageError(f"--rate is for raw PCM on standard input (--source -); {uri} tells its own")
    return f"stdin:?rate={options.rate}"


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Run an artifact on a recording, on live sound, or on frames of a sensor, and print what it spots.",
        epilog="\n".join(
            _catalogue(title, schemes)
            for title, schemes in (
                ("sources of sound", sources.SOUND),
                ("sources of frames, for artifacts without a front end", sources.FRAMES),
                ("sinks", sinks.SCHEMES),
                ("decoders", decoders.SCHEMES),
            )
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("artifact", nargs="?", help="folder that edgernn convert wrote")
    add("recording", nargs="?", help="short for --source PATH")
    add("--source", metavar="URI", help="where sound or frames come from (default: mic:)")
    add("--sink", metavar="URI", default="text:", help="where events go (default: text:)")
    add("--runtime", choices=RUNTIMES, help="default: the first that is installed and fits")
    add("--provider", choices=CHOICES, help="on which ONNX Runtime computes; auto: the fastest here")
    add("--threads", type=int, default=1, metavar="N", help="threads of the runtime (default: 1)")
    add("--fast", action="store_true", help="take a recording as quickly as possible, not at its own pace")
    add("--threshold", action="append", default=[], metavar="[WORD=]X", help="score at which a word counts, 0 to 1")
    add("--decoder", metavar="URI", help="what makes events of the outputs (default: the artifact's)")
    add("--duration", type=float, metavar="S", help="end after so many seconds, of what comes or by the clock")
    add("--rate", type=int, metavar="HZ", help="sample rate of standard input (default: the model's)")
    add("--list-devices", action="store_true", help="list microphones, cameras, serial lines and sensors, and end")
    return parser


def _catalogue(title: str, schemes: dict[str, str]) -> str:
    return f"{title}:\n" + "\n".join(f"  {scheme:<32}{about}" for scheme, about in schemes.items())
