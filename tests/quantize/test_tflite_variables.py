"""States inside the model are those outside: bit for bit, in every quantization, whatever is reset and restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgernn.artifact import ModelFile
from edgernn.devices.runner import open_model
from edgernn.errors import ArtifactError, StepError
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.stepping import invoke_tflite
from edgernn.quantize.target import CPU, Target, target_named
from edgernn.quantize.tflite_variables import with_variables
from edgernn.spec import STEPS, STREAMS, StreamSpec
from edgernn.stream import Runner
from edgernn.testing import check_runner
from tests.devices.conftest import content_of, spec_of
from tests.quantize.lowering import lowered
from tests.quantize.networks import Array

MODELS = ("lstm", "int8", "delay", "hold")
"""Files with float and integer states, with states in each other's memory, and with one that waits."""
Pair = tuple[Runner, Runner]


@pytest.fixture
def open_pair(tmp_path: Path) -> Callable[[bytes, StreamSpec], Pair]:
    """Return a function that opens a file, with its states outside and inside."""

    def opened(content: bytes, spec: StreamSpec) -> Pair:
        runners = []
        for name, (data, shape) in {"out": (content, spec), "in": with_variables(content, spec)}.items():
            path = tmp_path / f"{name}.tflite"
            path.write_bytes(data)
            runners.append(open_model(ModelFile("tflite", path, "float32", shape, len(data)), "litert"))
        return runners[0], runners[1]

    return opened


def noise(spec: StreamSpec, steps_: int) -> Array:
    shape = (steps_, *spec.inputs[0].step_shape)
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def assert_same_bits(pair: Pair, frames: Array) -> None:
    for number, chunk in enumerate(frames):
        one, other = (runner.step(chunk) for runner in pair)
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)), f"step {number} differs"


@pytest.mark.parametrize("name", MODELS)
def test_inside_and_outside_give_the_same_bits(name: str, open_pair: Callable[..., Pair]) -> None:
    spec = spec_of(name)
    pair, frames = open_pair(content_of(name, "tflite"), spec), noise(spec, 5000)
    assert_same_bits(pair, frames)
    outside, inside = (runner.snapshot() for runner in pair)
    assert outside.keys() == inside.keys()
    for key, array in outside.items():
        assert (array.dtype, array.shape) == (inside[key].dtype, inside[key].shape)
        np.testing.assert_array_equal(array, inside[key])
    for runner in pair:
        runner.reset()
    assert_same_bits(pair, frames[:2])
    pair[0].restore(inside)
    pair[1].restore(outside)
    assert_same_bits(pair, frames[:9])


@pytest.mark.parametrize("name", MODELS)
def test_states_inside_pass_the_runners_checks(name: str, tmp_path: Path) -> None:
    content, spec = with_variables(content_of(name, "tflite"), spec_of(name))
    path = tmp_path / "in.tflite"
    path.write_bytes(content)
    check_runner(lambda: open_model(ModelFile("tflite", path, "float32", spec, len(content)), "litert"))


def test_a_program_resets_and_steps_by_signatures_alone() -> None:
    """As a program in another language does: it never sees a state."""
    content, _ = with_variables(content_of("hold", "tflite"), spec_of("hold"))
    invoke, one = invoke_tflite(content), {"x": np.ones((1, 1, 2), np.float32)}
    first = [float(invoke(one)["y"][0, 0]) for _ in range(6)]
    assert first == [6, 6, 6, 6, 7, 8], "the first call finds the initial value, and it is held for three steps"
    assert invoke({STREAMS: np.array([False])}, "reset")[STREAMS].tolist() == [False]
    assert float(invoke(one)["y"][0, 0]) == 9, "a stream that is not chosen goes on"
    invoke({STREAMS: np.array([True])}, "reset")
    assert [float(invoke(one)["y"][0, 0]) for _ in range(6)] == first
    kept = invoke({}, "snapshot")
    assert kept[STEPS].tolist() == [3]
    invoke(one)
    invoke({"sum_in": kept["sum_out"], STEPS: kept[STEPS]}, "restore")
    assert float(invoke(one)["y"][0, 0]) == 9


def test_whatever_is_called_first_finds_the_beginning() -> None:
    content, _ = with_variables(content_of("hold", "tflite"), spec_of("hold"))
    assert invoke_tflite(content)({}, "snapshot")["sum_out"].tolist() == [[5.0, 5.0]]
    invoke, one = invoke_tflite(content), {"x": np.ones((1, 1, 2), np.float32)}
    invoke({"sum_in": np.full((1, 2), 9, np.float32), STEPS: np.array([3], np.int32)}, "restore")
    assert float(invoke(one)["y"][0, 0]) == 10, "and what was restored first stays"


def test_a_model_without_states_stays_as_it_is() -> None:
    spec = replace(spec_of("lstm"), states=())
    assert with_variables(b"any", spec) == (b"any", spec)


def test_a_file_that_is_not_the_manifests_is_named(tmp_path: Path) -> None:
    content, spec = with_variables(content_of("lstm", "tflite"), spec_of("lstm"))
    path = tmp_path / "in.tflite"
    path.write_bytes(content)
    h, c = spec.states
    wrongs: dict[str, StreamSpec] = {
        "'h_out' has shape": replace(spec, states=(replace(h, shape=(1, 5)), c)),
        "c_out, h_out, the manifest says h_out": replace(spec, states=(h,)),
        "inputs x, the manifest says c_in, h_in, x": replace(spec, state_placement="external"),
    }
    for words, wrong in wrongs.items():
        with pytest.raises(ArtifactError, match=words):
            open_model(ModelFile("tflite", path, "float32", wrong, len(content)), "litert")
    path.write_bytes(content_of("lstm", "tflite"))
    with pytest.raises(ArtifactError):
        open_model(ModelFile("tflite", path, "float32", spec, len(content)), "litert")


def test_a_closed_runner_says_so(open_pair: Callable[..., Pair]) -> None:
    _, inside = open_pair(content_of("lstm", "tflite"), spec_of("lstm"))
    inside.close()
    for action in (inside.reset, inside.snapshot):
        with pytest.raises(StepError, match="closed"):
            action()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "target"),
    [
        *((scheme.name, CPU) for scheme in SCHEMES.values() if "tflite" in scheme.formats),
        ("int8", target_named("integer-only", None)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_every_quantization_keeps_its_states_inside(
    scheme: str, target: Target, open_pair: Callable[..., Pair]
) -> None:
    """Two rates, windows that wait, integer states where the scheme has them, and three streams, each by itself."""
    content, spec = lowered("delayed", batch=3).tflite(scheme, target)
    pair = open_pair(content, spec)
    assert_same_bits(pair, noise(spec, 300))
    for runner in pair:
        runner.reset(1)
    assert_same_bits(pair, noise(spec, 2000))
    for index in range(2):
        check_runner(lambda index=index: open_pair(content, spec)[index])  # type: ignore[misc]
