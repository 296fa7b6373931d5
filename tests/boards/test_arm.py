"""The device side on an emulated 64-bit ARM board: every scheme in every runtime gives what it gave here.

Needs Debian, its archive, and a package index; see `aarch64.py`. `make arm` runs it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import pytest
from keras import layers

from edgernn.artifact import Artifact
from edgernn.certificate import read_certificate
from edgernn.cli import main
from edgernn.quantize.schemes import SCHEMES
from tests.boards.aarch64 import Board
from tests.quantize.networks import frames, randomized

pytestmark = pytest.mark.arm

STEPS = 1000
FORMATS = {"litert": "tflite", "onnxruntime": "onnx", "tflite-runtime": "tflite"}
OLD = "tflite-runtime"
FORGETTING, DAMAGED = "forgetting", "damaged"
# One process for many: a start takes three seconds in emulation
EVERY = """
import contextlib, io, json, sys
from edgernn.cli import main
from edgernn.devices import run_litert, run_onnx

def forget(step):
    def stepped(self, *frames):
        outputs = tuple(output.copy() for output in step(self, *frames))
        self.reset()
        return outputs
    return stepped

for word in sys.argv[1:]:
    runtime, how, artifact = word.split("=")
    if how == "forgetting":  # from here on
        for kind in (run_litert.LiteRTRunner, run_litert.VariablesRunner, run_onnx.OnnxRunner):
            if "step" in vars(kind):
                kind.step = forget(kind.step)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["verify", artifact, "--runtime", runtime, "--json"])
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""


def network() -> Any:
    """Return a network with every recurrent layer, a convolution, and a state of each kind."""
    first = frames(12)
    value = layers.Conv1D(16, 3, padding="causal", activation="relu")(first)
    value = layers.GRU(20, return_sequences=True)(value)
    value = layers.Add()([value, layers.LSTM(20, return_sequences=True)(value)])
    value = layers.SimpleRNN(16, return_sequences=True)(layers.LayerNormalization()(value))
    return keras.Model(first, layers.Dense(6)(value))


def exact_network() -> Any:
    """Return a network whose every operator is one operation of IEEE 754 on each element, or moves it."""
    first = frames(12)
    highest = layers.MaxPooling1D(5, strides=1)(first)
    return keras.Model(first, layers.Concatenate()([layers.ReLU()(highest), layers.Cropping1D((4, 0))(first)]))


@dataclass(frozen=True)
class Verified:
    """What `edgernn verify` said on the board."""

    status: int
    replay: dict[str, Any]
    message: str

    @property
    def output(self) -> dict[str, Any]:
        found: dict[str, Any] = self.replay["outputs"][0]
        return found


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, installing: Future[Board]) -> dict[str, Path]:
    """Return an artifact of each scheme, made here; "exact", which promises the same bits everywhere; and others.

    "variables" has its states inside the file, where ARM's runtimes were seen to lose them (ebongard/renfield#44).
    """
    folder = tmp_path_factory.mktemp("artifacts")
    randomized(network()).save(folder / "network.keras")
    exact_network().save(folder / "exact.keras")
    made = {}
    for name in (*SCHEMES, "exact", "variables"):
        scheme = "float32" if name in ("exact", "variables") else name
        made[name] = folder / name
        old = "tflite" in SCHEMES[scheme].formats and scheme != "int4"  # which the old runtime computes wrongly
        options = ["--runtime-floor", "tflite-runtime-2.14"] if old else []
        options += ["--state", "internal", "--to", "tflite"] if name == "variables" else []
        model = folder / ("exact.keras" if name == "exact" else "network.keras")
        always = ["-q", "--drift-steps", str(STEPS), "--quantize", scheme]
        assert main(["convert", str(model), "-o", str(made[name]), *always, *options]) == 0
    made[DAMAGED] = damaged(made["int8"], folder / DAMAGED)
    return made


def damaged(artifact: Path, copy: Path) -> Path:
    """Write a copy whose certificate has one bit wrong."""
    copy.mkdir()
    for path in artifact.iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= path.name == "certificate.npz"
        (copy / path.name).write_bytes(content)
    return copy


def verified(
    board: Board, artifacts: dict[str, Path], asked: Sequence[tuple[str, str, str]], cpu: str = "cortex-a72"
) -> list[Verified]:
    """Verify on the board, in one process, each (runtime, artifact's name, how)."""
    place = "older" if asked[0][0] == OLD else "edgernn"
    words = [f"{runtime}={how}={artifacts[name]}" for runtime, name, how in asked]
    result = board.run(f"/opt/{place}/bin/python", "-c", EVERY, *words, cpu=cpu)
    assert result.returncode == 0, result.stderr[-2000:]
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == len(asked), result.stderr[-2000:]
    return [
        Verified(status, json.loads(text)["replays"][0] if text else {}, message) for status, text, message in answers
    ]


def chosen(artifacts: dict[str, Path], runtime: str) -> list[str]:
    """Return the names of the whole artifacts that are in the runtime's format."""
    return [
        name
        for name, path in artifacts.items()
        if name != DAMAGED and FORMATS[runtime] in Artifact.open(path).programs["step"]
    ]


@pytest.mark.parametrize("runtime", FORMATS)
def test_every_scheme_gives_there_what_it_gave_here(runtime: str, board: Board, artifacts: dict[str, Path]) -> None:
    names = chosen(artifacts, runtime)
    again = ["dynamic-int8", "int8"]
    forgotten = ["float32", "int8", *(["variables"] if "variables" in names else [])]
    asked = [(runtime, name, "") for name in (*names, *again, DAMAGED)]
    found = verified(board, artifacts, [*asked, *((runtime, name, FORGETTING) for name in forgotten)])
    by_name = dict(zip(names, found, strict=False))
    if runtime == OLD:
        assert by_name.pop("int4").status == 1, "it has no such weights, whatever it says"
    assert {"float32", "float16", "dynamic-int8", "int8", "exact"} <= set(by_name)
    for name, item in by_name.items():
        check(item, name, artifacts[name], FORMATS[runtime])
    exact = by_name["exact"].output
    assert (exact["allowed_from_golden"], exact["first_difference"]) == (0.0, None)
    assert by_name["float32"].output["from_golden"] < 2e-5
    assert max(item.output["from_golden"] for item in by_name.values()) > 0, "another processor that never differs"
    rest = found[len(names) :]
    assert [one.replay["outputs"] for one in rest[:2]] == [by_name[name].replay["outputs"] for name in again]
    assert rest[2].status == 1
    assert "does not match its digest" in rest[2].message
    for name, item in zip(forgotten, rest[3:], strict=True):
        assert item.status == 1, f"{name}: states that do not last a step went unnoticed"
        assert "is too far from what it was when the artifact was made" in item.message


def check(item: Verified, name: str, artifact: Path, kind: str) -> None:
    """Check that what is to be the same as here is."""
    assert (item.status, item.message) == (0, ""), (name, item.message)
    assert not item.replay["same_machine"]
    assert item.replay["steps"] == STEPS
    bound = read_certificate(Artifact.open(artifact)).made[kind].bounds[0]
    assert item.output["from_golden"] <= item.output["allowed_from_golden"] == bound.elsewhere
    assert item.output["from_source"] <= item.output["allowed_from_source"]


def test_a_newer_board_agrees(board: Board, artifacts: dict[str, Path]) -> None:
    asked = [(runtime, name, "") for runtime in ("litert", "onnxruntime") for name in ("float32", "int8", "exact")]
    found = verified(board, artifacts, asked, cpu="cortex-a76")
    assert [item.status for item in found] == [0] * len(asked), found
    assert found[2].output["first_difference"] is found[5].output["first_difference"] is None
