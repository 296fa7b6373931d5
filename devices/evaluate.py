"""`edgernn evaluate`: how often a keyword artifact is right on a labelled folder, by the way that live sound takes.

edgernn evaluate ARTIFACT --data speech_commands --set dev
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.artifact import Artifact
from edgernn.clips import UNKNOWN, Clip, class_of, list_clips, read_audio
from edgernn.devices.pipeline import front_end_of, open_front_end
from edgernn.devices.runner import RUNTIMES, open_runner
from edgernn.errors import ArtifactError, DataError
from edgernn.stream import FrameStream
from edgernn.text import table

__all__ = ["Evaluation", "evaluate", "main"]

CLIP_S = 1.0


@dataclass(frozen=True)
class Evaluation:
    """Answers of an artifact to labelled clips."""

    labels: tuple[str, ...]
    confusion: NDArray[np.int64]
    """Clips by true label and answer, shape `(labels, labels)`."""
    runtime: str

    @property
    def clips(self) -> int:
        """How many clips there were."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.confusion.trace() / self.clips)

    def recall(self, label: str) -> float | None:
        """Share of right answers for one label; None if it has no clip."""
        row = self.confusion[self.labels.index(label)]
        return float(row[self.labels.index(label)] / row.sum()) if row.sum() else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "accuracy": self.accuracy,
            "clips": self.clips,
            "runtime": self.runtime,
            "labels": list(self.labels),
            "recall": {label: self.recall(label) for label in self.labels},
            "confusion": self.confusion.tolist(),
        }

    def __str__(self) -> str:
        """Return accuracy, recall and confusion as text."""
        rows = [
            (label, "–" if (share := self.recall(label)) is None else f"{share:.1%}", *self.confusion[index].tolist())
            for index, label in enumerate(self.labels)
        ]
        grid = table(["said \\ heard", "recall", *self.labels], rows)
        return f"accuracy {self.accuracy:.2%} of {self.clips} clips, {self.runtime}\n\n{grid}"


def evaluate(artifact: Artifact, clips: Sequence[Clip], runtime: str | None = None) -> Evaluation:
    """Stream each clip from a reset, cut or padded with zeros to one second; the last output is the answer."""
    params = front_end_of(artifact)
    runner = open_runner(artifact, runtime)
    if runner.spec.outputs[0].shape[-1] != len(artifact.labels):
        raise ArtifactError(f"{artifact.path} has {len(artifact.labels)} labels for another number of outputs")
    stream, front_end = FrameStream(runner), open_front_end(artifact)
    labels, samples = artifact.labels, round(CLIP_S * params.rate_hz)
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    for number, clip in enumerate(clips):
        _show_progress(number, len(clips))
        sound = read_audio(clip.path, params.rate_hz)[:samples]
        stream.reset()
        front_end.reset()
        scores = stream.push(front_end.push(np.pad(sound, (0, samples - len(sound)))))[0]
        if not len(scores):
            raise ArtifactError(f"{artifact.path} gives no answer within {CLIP_S:g} s: its latency is too long")
        confusion[labels.index(_true_label(clip, labels)), int(scores[-1].argmax())] += 1
    runner.close()
    return Evaluation(labels, confusion, runner.runtime)


def _true_label(clip: Clip, labels: Sequence[str]) -> str:
    label = class_of(clip.word, labels)
    if label not in labels:
        raise DataError(f"{clip.path} says '{clip.word}', and the artifact has no label for that, nor '{UNKNOWN}'")
    return label


def main(arguments: Sequence[str], prog: str) -> int:
    """Run the command; return the exit status."""
    options = _parser(prog).parse_args(arguments)
    artifact = Artifact.open(options.artifact)
    clips = list_clips(options.data)
    if options.set:
        clips = [clip for clip in clips if clip.set == options.set]
        if not clips:
            raise DataError(
                f"{Path(options.data)} has no clip of the set '{options.set}': its index.csv names the sets"
            )
    result = evaluate(artifact, clips, options.runtime)
    print(json.dumps(result.to_dict(), indent=1) if options.json else result)
    return 0


def _show_progress(done: int, count: int) -> None:
    if sys.stderr.isatty() and (done % 50 == 0 or done + 1 == count):
        end = "\r\033[K" if done + 1 == count else "\r"
        print(f"clip {done} of {count}", end=end, file=sys.stderr, flush=True)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Measure the accuracy of a keyword artifact on a folder of labelled clips."
    )
    add = parser.add_argument
    add("artifact", help="folder that edgernn convert wrote")
    add("--data", required=True, metavar="DIR", help="folder of <word>/<clip>.wav or .flac, with or without an index")
    add("--set", metavar="NAME", help="only the clips of this set in the index, such as dev (default: all)")
    add("--runtime", choices=RUNTIMES, help="default: the first that is installed and fits")
    add("--json", action="store_true", help="as JSON")
    return parser
