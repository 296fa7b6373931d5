"""The device side on an emulated 64-bit ARM board: every scheme in every runtime gives what it gave here.

Needs Debian, its archive, and a package index; see `aarch64.py`. `make arm` runs it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edgernn.artifact import Artifact
from edgernn.certificate import read_certificate
from edgernn.cli import main
from edgernn.quantize.schemes import SCHEMES
from tests.boards.aarch64 import Board, cache_folder, prepare
from tests.quantize.networks import frames, randomized

pytestmark = pytest.mark.arm

ROOT = Path(__file__).parents[2]
STEPS = 1000
FORMATS = {"litert": "tflite", "onnxruntime": "onnx", "tflite-runtime": "tflite"}
EVERY = """
import contextlib, io, json, sys
from edgernn.cli import main

runtime, *artifacts = sys.argv[1:]
for artifact in artifacts:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["verify", artifact, "--runtime", runtime, "--json"])
    print(json.dumps([artifact, status, out.getvalue(), err.getvalue()]), flush=True)
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
def board() -> Board:
    return prepare(cache_folder() / "aarch64")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and unpack it, as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return an artifact of each scheme, made here; and "exact", which promises the same bits everywhere."""
    folder = tmp_path_factory.mktemp("artifacts")
    randomized(network()).save(folder / "network.keras")
    exact_network().save(folder / "exact.keras")
    made = {}
    for name in (*SCHEMES, "exact"):
        model, scheme = ("exact", "float32") if name == "exact" else ("network", name)
        made[name] = folder / name
        old = "tflite" in SCHEMES[scheme].formats and scheme != "int4"  # which the old runtime computes wrongly
        floor = ["--runtime-floor", "tflite-runtime-2.14"] if old else []
        options = ["-q", "--drift-steps", str(STEPS), "--quantize", scheme, *floor]
        assert main(["convert", str(folder / f"{model}.keras"), "-o", str(made[name]), *options]) == 0
    return made


def verified(
    board: Board, wheel: Path, artifacts: dict[str, Path], runtime: str, cpu: str = "cortex-a72"
) -> dict[str, Verified]:
    """Verify on the board every artifact that is in the runtime's format."""
    chosen = {
        name: path for name, path in artifacts.items() if FORMATS[runtime] in Artifact.open(path).programs["step"]
    }
    wheels = "old" if runtime == "tflite-runtime" else "new"
    result = board.python("-c", EVERY, runtime, *chosen.values(), wheel=wheel, wheels=wheels, cpu=cpu)
    assert result.returncode == 0, result.stderr[-2000:]
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [path for path, *_ in answers] == list(map(str, chosen.values()))
    return {
        name: Verified(status, json.loads(text)["replays"][0] if text else {}, errors)
        for name, (_, status, text, errors) in zip(chosen, answers, strict=True)
    }


@pytest.mark.parametrize("runtime", FORMATS)
def test_every_scheme_gives_there_what_it_gave_here(
    runtime: str, board: Board, wheel: Path, artifacts: dict[str, Path]
) -> None:
    found = verified(board, wheel, artifacts, runtime)
    if runtime == "tflite-runtime":
        assert found.pop("int4").status == 1, "it has no such weights, whatever it says"
    assert {"float32", "float16", "dynamic-int8", "int8", "exact"} <= set(found)
    for name, item in found.items():
        assert (item.status, item.message) == (0, ""), (name, item.message)
        assert not item.replay["same_machine"]
        assert item.replay["steps"] == STEPS
        bound = read_certificate(Artifact.open(artifacts[name])).made[FORMATS[runtime]].bounds[0]
        assert item.output["from_golden"] <= item.output["allowed_from_golden"] == bound.elsewhere
        assert item.output["from_source"] <= item.output["allowed_from_source"]
    assert found["exact"].output["allowed_from_golden"] == 0.0
    assert found["exact"].output["first_difference"] is None
    assert found["float32"].output["from_golden"] < 2e-5
    assert max(item.output["from_golden"] for item in found.values()) > 0, "another processor that never differs"


@pytest.mark.parametrize("runtime", ["litert", "onnxruntime"])
def test_the_board_repeats_itself_bit_for_bit(
    runtime: str, board: Board, wheel: Path, artifacts: dict[str, Path]
) -> None:
    paths = [artifacts["dynamic-int8"], artifacts["int8"]] * 2
    result = board.python("-c", EVERY, runtime, *paths, wheel=wheel)
    outputs = [json.loads(json.loads(line)[2])["replays"][0]["outputs"] for line in result.stdout.splitlines()]
    assert outputs[:2] == outputs[2:]
    assert outputs[0] != outputs[1]


def test_a_newer_board_agrees(board: Board, wheel: Path, artifacts: dict[str, Path]) -> None:
    chosen = {name: artifacts[name] for name in ("float32", "int8", "exact")}
    for runtime in ("litert", "onnxruntime"):
        found = verified(board, wheel, chosen, runtime, cpu="cortex-a76")
        assert all(item.status == 0 for item in found.values()), found
        assert found["exact"].output["first_difference"] is None


def test_a_damaged_certificate_is_found_out_on_the_board(
    board: Board, wheel: Path, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    content = bytearray((artifacts["int8"] / "certificate.npz").read_bytes())
    content[len(content) // 2] ^= 1
    copy = tmp_path / "damaged"
    copy.mkdir()
    for path in artifacts["int8"].iterdir():
        (copy / path.name).write_bytes(bytes(content) if path.name == "certificate.npz" else path.read_bytes())
    result = board.python("-c", EVERY, "litert", copy, wheel=wheel)
    (_, status, _, message) = json.loads(result.stdout)
    assert status == 1
    assert "does not match its digest" in message
    assert np.all([line.startswith("edgernn verify: error: ") for line in message.splitlines()])
