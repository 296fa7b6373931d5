"""What the daemon costs: its start, memory, processor time, the way of an event, and whether memory grows.

    python -m tests.benchmarks.daemon ARTIFACT RECORDING [--seconds 60]

The recording comes over a pipe, 20 ms at a time: first at its own pace, once; then as fast as it is taken, again and
again. An event's way is from when its last frame was said to when its line was read from the daemon's standard output,
with the 20 ms that a chunk takes to be said. All of it is a process of its own; times are of this machine as it is.
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
from pathlib import Path
from typing import Any

import numpy as np

from edgernn.clips import read_audio
from edgernn.text import table

__all__ = ["Daemon", "main"]

RATE, CHUNK = 16000, 320
EDGERNN = [sys.executable, "-c", "import sys; from edgernn.cli import main; sys.exit(main())"]
MIB = 2**20


class Daemon:
    """A daemon on standard input, and the events that it has written, with the time of each."""

    def __init__(self, artifact: Path, folder: Path) -> None:
        config = folder / "edge.toml"
        config.write_text(
            f'state = "{folder}"\n[pipeline.hall]\nartifact = "{artifact.resolve()}"\n'
            'source = "stdin:"\nsinks = "json:"\n'
        )
        self.events: list[tuple[float, dict[str, Any]]] = []
        self._process = subprocess.Popen(
            [*EDGERNN, "serve", str(config)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self._process.stdin is not None
        self.stdin = self._process.stdin
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.events.append((time.monotonic(), json.loads(line)))

    @property
    def cpu_s(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_mib(self) -> float:
        """Memory in RAM."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / MIB

    def close(self) -> None:
        """Let it take what waits, and end."""
        self.stdin.close()
        self._process.wait()
        self._reader.join()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.daemon")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it is fed as fast as it goes")
    options = parser.parse_args()
    pcm = (read_audio(options.recording, RATE) * 32767).astype("<i2").tobytes()
    rows = []
    for measure in (first_event, at_its_own_pace, as_fast_as_it_goes):
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(options.artifact, Path(folder), pcm, options.seconds)
    print(table(["what", "measured"], rows))


def first_event(artifact: Path, folder: Path, pcm: bytes, _: float) -> list[list[object]]:
    """Measure from the start of the process to its first event."""
    begin = time.monotonic()
    daemon = Daemon(artifact, folder)
    daemon.stdin.write(pcm)
    daemon.close()
    return [["start of the process to its first event, s", f"{daemon.events[0][0] - begin:.2f}"]]


def at_its_own_pace(artifact: Path, folder: Path, pcm: bytes, _: float) -> list[list[object]]:
    """Measure a stream as a microphone gives it."""
    daemon = Daemon(artifact, folder)
    time.sleep(2)
    begin, cpu = time.monotonic(), daemon.cpu_s
    for start in range(0, len(pcm), 2 * CHUNK):
        time.sleep(max(0.0, begin + (start / 2 + CHUNK) / RATE - time.monotonic()))
        daemon.stdin.write(pcm[start : start + 2 * CHUNK])
        daemon.stdin.flush()
    share, resident = (daemon.cpu_s - cpu) / (time.monotonic() - begin), daemon.resident_mib
    daemon.close()
    ways_ms = [1000 * (moment - begin - event["end_s"]) for moment, event in daemon.events]
    return [
        ["at its own pace: of one core", f"{share:.1%}"],
        ["… resident, MiB", f"{resident:.1f}"],
        ["… an event's way, ms, median and worst", f"{np.median(ways_ms):.0f}, {max(ways_ms):.0f}"],
    ]


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
