"""A virtual microphone that goes away, as when it is unplugged, and comes back."""

from __future__ import annotations

import shutil
import time
import wave
from pathlib import Path

from tests.benchmarks.faults.rig import RATE, Bench, Faults, Hung, Serve, read_lines, until
from tests.devices.test_microphone import TOOLS, VirtualMicrophone

__all__ = ["gone_and_back"]

CLIP_S = (10.0, 14.0)  # of the demo's recording: three words
HEARD_S = 3.0  # how long after it was played a word may come


def gone_and_back(bench: Bench) -> Faults:
    """Kill PulseAudio, start it anew, and play words once the daemon hears again."""
    faults = Faults("microphone gone and back")
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        faults.problems.append(f"not run: {', '.join(missing)} not installed")
        return faults
    begin, end = (round(2 * RATE * seconds) for seconds in CLIP_S)
    clip = bench.sound.pcm[begin:end] or bench.sound.pcm
    words = [word for word, *_ in bench.sound.events(bytes(2 * RATE) + clip + bytes(2 * RATE))]
    path, file = bench.folder / "clip.wav", bench.folder / "events.jsonl"
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, RATE, 0, "NONE", ""))
        sound.writeframes(clip)
    microphone = VirtualMicrophone(bench.folder / "pulse")
    daemon = Serve(
        bench.folder,
        f'state = "{bench.folder / "state"}"\n[pipeline.hall]\nartifact = "{bench.sound.artifact}"\n'
        f'source = "mic:pulse"\nsinks = "json:{file}"\n',
        **microphone.environment,
    )
    try:
        _until_it_hears(daemon, 0)
        for number in bench.each(faults):
            microphone.close()
            bench.pause(0.2, 2.0)
            microphone = VirtualMicrophone(bench.folder / "pulse")
            faults.recoveries_s.append(_until_it_hears(daemon, number + 1))
            _play(faults, microphone, words, path, file)
        daemon.end()
    except Hung:
        daemon.kill()
        raise
    finally:
        microphone.close()
    return faults


def _until_it_hears(daemon: Serve, times: int) -> float:
    """Wait until it has opened the microphone so many times again, and sound comes."""
    begin = time.monotonic()
    until(lambda: daemon.metric("edgernn_source_reopened_total") >= times, "the microphone is not opened again")
    heard = daemon.metric("edgernn_samples_total")
    until(lambda: daemon.metric("edgernn_samples_total") > heard, "the microphone gives nothing")
    return time.monotonic() - begin


def _play(faults: Faults, microphone: VirtualMicrophone, words: list[str], path: Path, file: Path) -> None:
    before = len(read_lines(file))
    microphone.play(path)
    end = time.monotonic() + HEARD_S
    while len(read_lines(file)) < before + len(words) and time.monotonic() < end:
        time.sleep(0.02)
    heard = read_lines(file)
    new = [message.event.label for message in heard[before:]]
    faults.expected += len(words)
    faults.received += sum(min(new.count(word), words.count(word)) for word in set(words))
    faults.strange += sum(max(0, new.count(word) - words.count(word)) for word in set(new))
    faults.repeated += len(heard) - len({message.id for message in heard}) - faults.repeated
