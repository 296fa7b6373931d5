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
import time
from collections.abc import Iterator, Sequence

import numpy as np

from edgernn.artifact import Artifact
from edgernn.decode.keyword import KeywordSpec
from edgernn.devices import sinks, sources
from edgernn.devices.pipeline import front_end_of, keyword_spec_of, open_stream, words_of
from edgernn.devices.runner import RUNTIMES
from edgernn.devices.sources.microphone import list_microphones
from edgernn.errors import AudioError, UsageError
from edgernn.events import Stamp
from edgernn.stream import Sink, Source, Stream
from edgernn.text import table

__all__ = ["main", "pump"]


def main(arguments: Sequence[str], prog: str) -> int:
    """Run the command; return the exit status."""
    options = _parser(prog).parse_args(arguments)
    if options.list_devices:
        return _list_microphones()
    if options.artifact is None:
        raise UsageError("name the artifact to run: a folder that edgernn convert wrote")
    if options.duration is not None and not 0 < options.duration < float("inf"):
        raise UsageError(f"--duration must be a number of seconds above 0, not {options.duration:g}")
    artifact = Artifact.open(options.artifact)
    rate_hz = front_end_of(artifact).rate_hz
    decoder = _with_thresholds(keyword_spec_of(artifact), options.threshold, artifact.labels)
    stream = open_stream(artifact, options.runtime, options.threads, decoder)
    sink = sinks.open_sink(options.sink, words=words_of(artifact))
    source = sources.open_source(_source_uri(options), rate_hz, options.fast)
    print(f"{artifact.name} in {stream.runner.runtime}; Ctrl-C ends", file=sys.stderr)
    busy_s = pump(source, stream, sink, options.duration)
    print(_summary(stream, busy_s), file=sys.stderr)
    return 0


def _list_microphones() -> int:
    found = list_microphones()
    if not found:
        raise AudioError("there is no microphone: plug one in, or give --source a recording or standard input")
    print(table(["number", "microphone", "channels", "Hz"], found))
    return 0


def pump(source: Source, stream: Stream, sink: Sink, duration_s: float | None = None) -> float:
    """Bring sound from the source through the stream to the sink, until its end, an interrupt, or `duration_s`.

    Returns the seconds that computing took; waiting for sound does not count. Closes source and sink.
    """
    busy_s, most = 0.0, float("inf") if duration_s is None else duration_s * stream.rate_hz
    stamp = Stamp()
    with contextlib.closing(sink), contextlib.closing(source), _interrupts_end():
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
def _interrupts_end() -> Iterator[None]:
    """Let SIGTERM be as SIGINT, and either one end the block and nothing else."""
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _summary(stream: Stream, busy_s: float) -> str:
    audio_s = stream.samples / stream.rate_hz
    factor = f"{busy_s / audio_s:.4f}" if audio_s else "–"
    median_us = f"{np.median(stream.step_us):.1f}" if stream.step_us else "–"
    return (
        f"{audio_s:.2f} s of sound, real-time factor {factor}, {stream.frames} frames, {stream.steps} steps "
        f"of {median_us} µs (median), {stream.lost} samples lost, {stream.events} events"
    )


def _with_thresholds(spec: KeywordSpec, texts: Sequence[str], labels: Sequence[str]) -> KeywordSpec:
    for text in texts:
        word, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise UsageError(f"a threshold is a number or WORD=NUMBER, not '{text}'") from None
        if not 0 < value <= 1:
            raise UsageError(f"--threshold must be above 0 and at most 1, not '{text}'")
        spec = spec.with_threshold({word: value} if equals else value, labels)
    return spec


def _source_uri(options: argparse.Namespace) -> str:
    if options.recording is not None and options.source is not None:
        raise UsageError(f"two sources are named, {options.recording} and {options.source}: name one")
    uri: str = options.recording or options.source or "mic:"
    if options.rate is None:
        return uri
    if uri not in ("-", "stdin:"):
        raise UsageError(f"--rate is for raw PCM on standard input (--source -); {uri} tells its own")
    return f"stdin:?rate={options.rate}"


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Run an artifact on a recording or on live sound, and print what it spots.",
        epilog=_catalogue("sources", sources.SCHEMES) + "\n" + _catalogue("sinks", sinks.SCHEMES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("artifact", nargs="?", help="folder that edgernn convert wrote")
    add("recording", nargs="?", help="short for --source PATH")
    add("--source", metavar="URI", help="where the sound comes from (default: mic:)")
    add("--sink", metavar="URI", default="text:", help="where events go (default: text:)")
    add("--runtime", choices=RUNTIMES, help="default: the first that is installed and fits")
    add("--threads", type=int, default=1, metavar="N", help="threads of the runtime (default: 1)")
    add("--fast", action="store_true", help="take a recording as quickly as possible, not at its own pace")
    add("--threshold", action="append", default=[], metavar="[WORD=]X", help="score at which a word counts, 0 to 1")
    add("--duration", type=float, metavar="S", help="end after so many seconds of sound")
    add("--rate", type=int, metavar="HZ", help="sample rate of standard input (default: the model's)")
    add("--list-devices", action="store_true", help="list the microphones, and end")
    return parser


def _catalogue(title: str, schemes: dict[str, str]) -> str:
    return f"{title}:\n" + "\n".join(f"  {scheme:<24}{about}" for scheme, about in schemes.items())
