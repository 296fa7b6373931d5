"""What the daemon costs: its start, memory, processor time, the way of an event, and whether memory grows.

    python -m tests.benchmarks.daemon ARTIFACT RECORDING [--rounds 3] [--seconds 60]

The recording comes over a pipe, 20 ms at a time: in each round once at its own pace, once more with a server for the
live page; then as fast as it is taken, again and again. Where PulseAudio is installed, it is also played to a
microphone. An event's way is from when its last frame was said to when its line was read from the daemon's standard
output, with the 20 ms that a chunk takes to be said.

Processor time is what the scheduler counts for all threads, in nanoseconds, on this machine as it is. So peers take
turns with the daemon: a loop in Python that only reads what comes, and one that does only what the model needs (front
end, step, decoder; woken once a step).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgernn.clips import read_audio
from edgernn.text import table
from tests.devices.test_microphone import VirtualMicrophone
from tests.devices.test_microphone import missing as missing_for_a_microphone

__all__ = ["Daemon", "main"]

RATE, CHUNK = 16000, 320
EDGERNN = [sys.executable, "-c", "import sys; from edgernn.cli import main; sys.exit(main())"]
READ = "import os\nwhile os.read(0, 65536): pass"
STREAM = """
import sys
import numpy as np
from edgernn.artifact import Artifact
from edgernn.devices.pipeline import open_stream
stream = open_stream(Artifact.open(sys.argv[1]))
while data := sys.stdin.buffer.read(2 * stream.step_samples):
    stream.push(np.frombuffer(data, "<i2") / np.float32(32768))
"""
MIB = 2**20
SETTLE_S = 12.0  # in its first ten seconds a daemon looks after everything more often


class Fed:
    """A process that is given sound."""

    def __init__(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        assert self._process.stdin is not None
        self.stdin = self._process.stdin

    @property
    def cpu_s(self) -> float:
        """Processor time so far, of the threads that there are."""
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    @property
    def resident_mib(self) -> float:
        """Memory in RAM."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / MIB

    def feed(self, pcm: bytes) -> tuple[float, float]:
        """Say it at its own pace; return when that began, and the share of one core that it took."""
        time.sleep(SETTLE_S)
        begin, cpu = time.monotonic(), self.cpu_s
        for start in range(0, len(pcm), 2 * CHUNK):
            time.sleep(max(0.0, begin + (start / 2 + CHUNK) / RATE - time.monotonic()))
            self.stdin.write(pcm[start : start + 2 * CHUNK])
            self.stdin.flush()
        return begin, (self.cpu_s - cpu) / (time.monotonic() - begin)

    def close(self) -> None:
        """Let it take what waits, and end."""
        self.stdin.close()
        self._process.wait()


class Daemon(Fed):
    """A daemon on standard input, and the events that it has written, with the time of each."""

    def __init__(
        self, artifact: Path, folder: Path, *settings: str, environment: Mapping[str, str] | None = None
    ) -> None:
        config = folder / "edge.toml"
        config.write_text(
            f'state = "{folder}"\n[pipeline.hall]\nartifact = "{artifact.resolve()}"\n'
            'source = "stdin:"\nsinks = "json:"\n'
        )
        self.events: list[tuple[float, dict[str, Any]]] = []
        options = [word for setting in settings for word in ("--set", setting)]
        super().__init__(*EDGERNN, "serve", str(config), *options, environment=environment)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.events.append((time.monotonic(), json.loads(line)))

    def end(self) -> None:
        """End one that listens to something else."""
        self._process.terminate()
        self.close()

    def close(self) -> None:
        """Let it take what waits, and end."""
        super().close()
        self._reader.join()


Measured = dict[str, list[float]]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.daemon")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="how often it is fed at its own pace")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it is fed as fast as it goes; 0: not")
    options = parser.parse_args()
    pcm = (read_audio(options.recording, RATE) * 32767).astype("<i2").tobytes()
    measured: Measured = defaultdict(list)
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            one_round(options.artifact, options.recording, Path(folder), pcm, measured)
    rows: list[list[object]] = [[what, *_spread(values)] for what, values in measured.items()]
    if options.seconds:
        with tempfile.TemporaryDirectory() as folder:
            rows += as_fast_as_it_goes(options.artifact, Path(folder), pcm, options.seconds)
    print(table(["what", "median", "least", "most"], [[*row, "", ""][:4] for row in rows]))


def one_round(artifact: Path, recording: Path, folder: Path, pcm: bytes, measured: Measured) -> None:
    """Measure everything at its own pace, once."""
    measured["start of the process to its first event, s"].append(first_event(artifact, folder, pcm))
    at_its_own_pace(artifact, folder, pcm, measured)
    for what, program in (("only reads", READ), ("only what the model needs", STREAM)):
        peer = Fed(sys.executable, "-c", program, str(artifact))
        measured[f"peer, {what}: % of one core"].append(100 * peer.feed(pcm)[1])
        peer.close()
    daemon = Daemon(artifact, folder, "http.listen=127.0.0.1:0")
    measured["with a live page that nobody looks at: % of one core"].append(100 * daemon.feed(pcm)[1])
    daemon.close()
    if not missing_for_a_microphone:
        measured["on a microphone (PulseAudio): % of one core"].append(on_a_microphone(artifact, recording, folder))
    measured["load of the machine (1 min)"].append(os.getloadavg()[0])


def _spread(values: list[float]) -> list[str]:
    return [f"{value:.2f}" for value in (float(np.median(values)), min(values), max(values))]


def first_event(artifact: Path, folder: Path, pcm: bytes) -> float:
    """Measure from the start of the process to its first event."""
    begin = time.monotonic()
    daemon = Daemon(artifact, folder)
    daemon.stdin.write(pcm)
    daemon.close()
    return daemon.events[0][0] - begin


def at_its_own_pace(artifact: Path, folder: Path, pcm: bytes, measured: Measured) -> None:
    """Measure a stream as a microphone gives it."""
    daemon = Daemon(artifact, folder)
    begin, share = daemon.feed(pcm)
    measured["at its own pace: % of one core"].append(100 * share)
    measured["… resident, MiB"].append(daemon.resident_mib)
    daemon.close()
    measured["… an event's way, ms"] += [1000 * (moment - begin - event["end_s"]) for moment, event in daemon.events]


def on_a_microphone(artifact: Path, recording: Path, folder: Path) -> float:
    """Measure the percentage of a core while the recording is played to a microphone."""
    microphone = VirtualMicrophone(folder / "pulse")
    daemon = Daemon(artifact, folder, "pipeline.hall.source=mic:pulse", environment=microphone.environment)
    try:
        time.sleep(SETTLE_S)
        begin, cpu = time.monotonic(), daemon.cpu_s
        microphone.play(recording)
        share = (daemon.cpu_s - cpu) / (time.monotonic() - begin)
    finally:
        daemon.end()
        microphone.close()
    if not daemon.events:
        raise SystemExit("the daemon heard nothing on the microphone")
    return 100 * share


def as_fast_as_it_goes(artifact: Path, folder: Path, pcm: bytes, seconds: float) -> list[list[object]]:
    """Measure many hours of sound."""
    daemon, passes, resident = Daemon(artifact, folder), 0, []
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        daemon.stdin.write(pcm)
        passes += 1
        resident.append((time.monotonic() - begin, daemon.resident_mib))
    cpu = daemon.cpu_s
    daemon.close()
    settled = np.array(resident[len(resident) // 5 :])
    sound_s, count = passes * len(pcm) / 2 / RATE, len(daemon.events)
    slope = np.polyfit(settled[:, 0], settled[:, 1], 1)[0] * 1024 * seconds / (sound_s / 3600)
    twice = count - len({event["id"] for _, event in daemon.events})
    return [
        ["as fast as it goes: of one core, for each second of sound", f"{cpu / sound_s:.2%}"],
        ["… hours of sound, times real time", f"{sound_s / 3600:.1f}, {sound_s / seconds:.0f}"],
        ["… resident at the end, MiB", f"{resident[-1][1]:.1f}"],
        ["… growth in the last four fifths, KiB for an hour of sound", f"{slope:+.2f}"],
        ["… events, passes of the recording, ids that came twice", f"{count}, {passes}, {twice}"],
    ]


if __name__ == "__main__":
    main()
