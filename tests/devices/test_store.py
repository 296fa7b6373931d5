"""Artifacts of a daemon: copied whole or not at all, proven, and the last good one kept."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgernn.artifact import MANIFEST, Artifact, write_artifact
from edgernn.certificate import CERTIFICATE, Bound, Certificate, Golden, Made, on_levels
from edgernn.devices.daemon import store as store_module
from edgernn.devices.daemon.config import PipelineConfig, SourceConfig
from edgernn.devices.daemon.ready import prepare_from
from edgernn.devices.daemon.store import Store
from edgernn.devices.daemon.watch import Watch
from edgernn.devices.runner import open_model
from edgernn.devices.signing import make_key, read_key, sign
from edgernn.errors import ArtifactError, UsageError
from edgernn.machine import describe_processor
from tests.devices.conftest import write_energy_artifact

STEPS = 60


def pipeline(artifact: Path, name: str = "hall", **more: Any) -> PipelineConfig:
    return PipelineConfig(name, artifact, SourceConfig("stdin:"), **more)


def rewrite(artifact: Artifact, more: dict[str, Any], files: dict[str, bytes] | None = None) -> Artifact:
    """Write an artifact again, as another version of it."""
    manifest = json.loads((artifact.path / MANIFEST).read_text())
    old = {file: (artifact.path / file).read_bytes() for file in manifest.pop("files")}
    return write_artifact(artifact.path, {**manifest, **more}, {**old, **(files or {})})


def certify(artifact: Artifact, off: float = 0.0) -> Artifact:
    """Give it a certificate, of what the file gives or of something that is `off` by so much."""
    frames = on_levels(np.random.default_rng(1).standard_normal((STEPS, 40)).astype(np.float32))
    steps, made, by = np.arange(STEPS), {}, {}
    for kind in ("tflite", "onnx"):
        runner = open_model(artifact.model(kind))
        made[kind] = np.stack([runner.step(frame[None])[0].copy() for frame in frames]) + np.float32(off)
        golden = Golden(steps, steps, made[kind], {})
        by[kind] = Made(runner.runtime, describe_processor(), (Bound("y", 1, 0, 0.1, golden.drift(made[kind], STEPS)),))
    golden = Golden(steps, steps, made["tflite"], made)
    certificate = Certificate(STEPS, (frames,), (golden,), by, 0.1, "noise")
    return rewrite(artifact, {"certificate": certificate.section()}, {CERTIFICATE: certificate.content()})


def test_what_runs_is_a_copy(energy_artifact: Artifact, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = prepare_from(store, pipeline(energy_artifact.path))
    assert first.artifact.name == "energy"
    assert first.artifact.path.parent.parent == tmp_path / "store"
    shutil.rmtree(energy_artifact.path)
    again = prepare_from(Store(tmp_path / "store"), pipeline(energy_artifact.path))
    assert again.artifact.path == first.artifact.path


def test_what_would_give_the_same_goes_on(energy_artifact: Artifact, tmp_path: Path) -> None:
    store, config = Store(tmp_path / "store"), pipeline(energy_artifact.path)
    first = prepare_from(store, config)
    assert prepare_from(store, pipeline(energy_artifact.path, late_s=9.0), first).stream is first.stream
    assert prepare_from(store, pipeline(energy_artifact.path, threshold=0.9), first).stream is not first.stream
    rewrite(energy_artifact, {"name": "newer"})
    newer = prepare_from(store, config, first)
    assert newer.artifact.name == "newer"
    store.prove()
    assert [path.name for path in (tmp_path / "store").iterdir() if path.is_dir()] == [newer.artifact.path.parent.name]


def spoil(name: str, artifact: Artifact) -> None:
    """Do to an artifact what a name says."""
    model, manifest = artifact.path / "step.tflite", artifact.path / MANIFEST
    content = model.read_bytes()
    if name == "a flipped bit":
        model.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
    elif name == "half a model":
        model.write_bytes(content[: len(content) // 2])
    elif name == "half a manifest":
        manifest.write_bytes(manifest.read_bytes()[:200])
    elif name == "no manifest":
        manifest.unlink()
    elif name == "no model":
        model.unlink()
    elif name == "nothing":
        shutil.rmtree(artifact.path)
    elif name == "another model":  # with fitting digests: the certificate alone tells
        certify(artifact, off=0.5)
    elif name == "no decoder":
        rewrite(artifact, {"decoder": None})


SPOILS = [
    "a flipped bit", "half a model", "half a manifest", "no manifest", "no model", "nothing", "another model",
    "no decoder",
]  # fmt: skip


@pytest.mark.parametrize("how", SPOILS)
def test_the_last_good_one(
    how: str, energy_artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certify(energy_artifact)
    good = prepare_from(Store(tmp_path / "store"), pipeline(energy_artifact.path))
    spoil(how, energy_artifact)
    store = Store(tmp_path / "store")
    with caplog.at_level(logging.ERROR):
        found = prepare_from(store, pipeline(energy_artifact.path))
    assert found.artifact.path == good.artifact.path
    assert store.refused == {"hall": 1}
    assert "hall: the last good artifact goes on: " in caplog.text
    assert prepare_from(store, pipeline(energy_artifact.path), found).stream is found.stream


def test_the_one_before_is_kept_until_the_next_has_lasted(
    energy_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that begin and are never heard of again: after two, the copy before goes on, until there is a third one."""
    taken, config = list[str](), pipeline(energy_artifact.path)
    for run in range(6):
        monkeypatch.setattr(store_module, "THIS_RUN", f"run {run}")
        store = Store(tmp_path / "store")
        taken.append(prepare_from(store, config).artifact.name)
        assert prepare_from(Store(tmp_path / "store"), config).artifact.name == taken[-1]  # a reload is no run
        if run == 0:
            store.prove()
            rewrite(energy_artifact, {"name": "deadly"})
        if run == 4:
            rewrite(energy_artifact, {"name": "mended"})
    assert taken == ["energy", "deadly", "deadly", "energy", "energy", "mended"]


def test_kills_do_not_count_where_there_is_no_other(
    energy_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in range(5):
        monkeypatch.setattr(store_module, "THIS_RUN", f"run {run}")
        store = Store(tmp_path / "store")
        assert prepare_from(store, pipeline(energy_artifact.path)).artifact.name == "energy"
        assert not store.refused


def test_what_runs_stays_though_no_note_can_be_written(
    energy_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_from(Store(tmp_path / "store"), pipeline(energy_artifact.path, "old"))
    store = Store(tmp_path / "store")
    monkeypatch.setattr(Path, "replace", lambda *_: (tmp_path / "nowhere").stat())
    kept = prepare_from(store, pipeline(energy_artifact.path, "new"))
    store.retain(["new"])
    assert kept.artifact.path.exists()


def test_none_was_ever_good(energy_artifact: Artifact, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    spoil("half a model", energy_artifact)
    with pytest.raises(ArtifactError, match="the manifest says"):
        prepare_from(store, pipeline(energy_artifact.path))
    other = write_energy_artifact(tmp_path / "other")
    prepare_from(store, pipeline(other.path))
    with pytest.raises(ArtifactError, match=r"energy/step\.tflite has"):  # what was good came from elsewhere
        prepare_from(store, pipeline(energy_artifact.path))


def test_both_are_broken(energy_artifact: Artifact, tmp_path: Path) -> None:
    good = prepare_from(Store(tmp_path / "store"), pipeline(energy_artifact.path))
    spoil("half a model", energy_artifact)
    spoil("no model", good.artifact)
    with pytest.raises(ArtifactError, match="nor is the last good one well"):
        prepare_from(Store(tmp_path / "store"), pipeline(energy_artifact.path))


def test_a_broken_copy_is_made_anew(energy_artifact: Artifact, tmp_path: Path) -> None:
    good = prepare_from(Store(tmp_path / "store"), pipeline(energy_artifact.path))
    spoil("half a model", good.artifact)
    assert prepare_from(Store(tmp_path / "store"), pipeline(energy_artifact.path)).artifact.path == good.artifact.path


def test_a_mistake_in_the_configuration_is_none_of_the_artifact(energy_artifact: Artifact, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    prepare_from(store, pipeline(energy_artifact.path))
    with pytest.raises(UsageError, match="a threshold is set for hello"):
        prepare_from(store, pipeline(energy_artifact.path, threshold={"hello": 0.5}))
    assert not store.refused


def test_what_is_not_signed_does_not_take_over(energy_artifact: Artifact, tmp_path: Path) -> None:
    trusted = [make_key(tmp_path / "release")]
    with pytest.raises(ArtifactError, match="energy is not signed"):
        prepare_from(Store(tmp_path / "store", trusted), pipeline(energy_artifact.path))
    sign(energy_artifact, read_key(tmp_path / "release"))
    store = Store(tmp_path / "store", trusted)
    good = prepare_from(store, pipeline(energy_artifact.path))
    rewrite(energy_artifact, {"name": "newer"})
    assert prepare_from(store, pipeline(energy_artifact.path)).artifact.path == good.artifact.path
    assert store.refused == {"hall": 1}
    sign(energy_artifact, read_key(tmp_path / "release"))
    assert prepare_from(store, pipeline(energy_artifact.path)).artifact.name == "newer"
    with pytest.raises(ArtifactError, match="nor is the last good one well"):  # a key that is trusted no more
        prepare_from(Store(tmp_path / "store", [make_key(tmp_path / "other")]), pipeline(energy_artifact.path))


def test_pipelines_share_copies_and_are_forgotten(energy_artifact: Artifact, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    one, other = (prepare_from(store, pipeline(energy_artifact.path, name)) for name in ("one", "other"))
    assert one.artifact.path == other.artifact.path
    store.retain(["other"])
    assert one.artifact.path.exists()
    store.retain([])
    assert list((tmp_path / "store").iterdir()) == []


def test_a_copy_that_was_cut_short_is_swept_away(energy_artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "store" / ".incoming-x" / "energy").mkdir(parents=True)
    (tmp_path / "store" / ".incoming-x" / "energy" / MANIFEST).write_text("{")
    prepare_from(Store(tmp_path / "store"), pipeline(energy_artifact.path))
    assert sorted(path.suffix for path in (tmp_path / "store").iterdir()) == ["", ".json"]


def test_watch(energy_artifact: Artifact, tmp_path: Path) -> None:
    now = 0.0
    link = tmp_path / "link"
    link.symlink_to(energy_artifact.path)
    watch = Watch([link], 1.0, lambda: now)

    def changed_after(seconds: float) -> bool:
        nonlocal now
        now += seconds
        return watch.has_changed()

    assert not changed_after(2)
    (energy_artifact.path / "step.onnx").write_bytes(b"x")
    assert not changed_after(0.5)
    assert not changed_after(1)  # it may go on changing
    (energy_artifact.path / "step.tflite").write_bytes(b"x")
    assert not changed_after(1)
    assert changed_after(1)
    assert not changed_after(1)
    other = write_energy_artifact(tmp_path / "other")
    (tmp_path / "fresh").symlink_to(other.path)
    (tmp_path / "fresh").replace(link)
    assert [changed_after(1) for _ in range(3)] == [False, True, False]
    link.unlink()
    assert [changed_after(1) for _ in range(3)] == [False, True, False]
    assert not Watch([link], 0.0, lambda: now).has_changed()
