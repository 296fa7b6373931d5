"""Every fault that a daemon must outlive, injected for real while it hears known words; and what became of its events.

    python -m tests.benchmarks.faults [--times 50] [--only FAULT] [--artifact ARTIFACT --recording WAV]

The real `edgernn serve` as a process, with a real Mosquitto, real files on a real full disk, a virtual microphone of
PulseAudio. Sound is said ten times as fast as it was recorded, but for the microphone. What must arrive is exact, since
a stream that nothing disturbs, here in this process, hears the same sound:

- broker, disk full, clock, slow sink, artifact: every event of all that was said, once, in order, with its times.
  An artifact that takes over has heard the latest 3 s alone: its words may be decided up to 0.1 s beside those of the
  undisturbed stream, and one more counts as explained only if a stream that begins there says it, too.
- killed with -9: every event of the sound that the daemon had counted as heard (`/metrics`) just before the kill; what
  was in the pipe then may or may not have been heard, but nothing else may come, and nothing out of order.
- microphone: the words that are played after it is back. Of what is said while it is away, nothing is expected.
- malformed: every event of the good messages among the malformed ones, which are counted by cause, each one.

A repeat (an event that comes again with its id, as after a kill between its delivery and the note about it) is no loss.
A recovery is from the end of the fault (the broker listens again, the process has died and may be started anew, the
disk is freed, the microphone is there, the clock is set, the malformed messages are sent, the server answers again, the
whole artifact is in place) until everything that waited has arrived and the daemon goes on. What takes longer than 30 s
hangs. Exit status 1 if anything was lost, hung, or took longer than 5 s.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edgernn.clips import read_audio
from edgernn.text import table
from tests.benchmarks.faults import artifacts, clock, deaths, malformed, microphone, sinks
from tests.benchmarks.faults.rig import EDGERNN, Bench, Faults, Hung, Sound

__all__ = ["FAULTS", "main"]

PRETRAINED = Path(__file__).parents[3] / "train" / "pretrained"
HEADER = ["fault", "injected", "expected", "received", "lost", "repeats", "hangs", "median s", "worst s"]
FAULTS: dict[str, Callable[[Bench], Faults]] = {
    "broker": sinks.broker_killed,
    "kill": deaths.killed,
    "disk": deaths.disk_full,
    "disk-kill": deaths.disk_full_and_killed,
    "microphone": microphone.gone_and_back,
    "clock": clock.set_back,
    "malformed": malformed.malformed,
    "slow": sinks.slow,
    "artifact": artifacts.corrupt,
}


def main(words: Sequence[str] | None = None) -> int:
    """Inject the faults, print the table, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.faults")
    parser.add_argument("--times", type=int, default=50, help="how often each fault is injected")
    parser.add_argument("--only", nargs="+", choices=FAULTS, metavar="FAULT", help=f"of: {', '.join(FAULTS)}")
    parser.add_argument("--artifact", type=Path, help="by default the demo's, converted first")
    parser.add_argument("--recording", type=Path, default=PRETRAINED / "samples" / "demo.wav")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        artifact = options.artifact or _convert(Path(folder))
        pcm = (read_audio(options.recording, 16000) * 32767).astype("<i2").tobytes()
        sound = Sound(artifact, pcm + bytes(32000))
        found = [_run(name, sound, Path(folder) / name, options.times) for name in options.only or FAULTS]
    print(table(HEADER, [faults.cells() for faults in found]))
    for faults in found:
        for words_ in (*faults.notes, *faults.problems, *([] if faults.well else ["NOT WELL"])):
            print(f"{faults.name}: {words_}")
    return 0 if all(faults.well for faults in found) else 1


def _run(name: str, sound: Sound, folder: Path, times: int) -> Faults:
    folder.mkdir()
    begin = time.monotonic()
    try:
        faults = FAULTS[name](Bench(sound, folder, times, random.Random(name), _progress))
    except Hung as error:
        faults = Faults(name, hangs=1, problems=[str(error)])
    except Exception as error:  # the others are injected all the same
        faults = Faults(name, problems=[f"{type(error).__name__}: {error}"])
    faults.notes.append(f"{time.monotonic() - begin:.0f} s in all")
    _progress("")
    print(", ".join(f"{title} {cell}" for title, cell in zip(HEADER, faults.cells(), strict=True)), flush=True)
    return faults


def _convert(folder: Path) -> Path:
    command = [*EDGERNN, "convert", str(PRETRAINED / "keyword-crnn"), "-o", str(folder / "keyword")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "keyword"


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
