"""Artifacts that are corrupt in every way, swapped in under a daemon that runs, and before one that starts."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from edgernn.artifact import MANIFEST, SIGNATURE, Artifact, write_artifact
from edgernn.certificate import CERTIFICATE
from edgernn.devices.signing import make_key, read_key, sign
from edgernn.errors import EdgeRNNError
from tests.benchmarks.faults.rig import Bench, Faults, Feed, Hung, Serve, key_of, read_lines, until

__all__ = ["WAYS", "corrupt"]

WITHIN_S = 0.1  # an artifact that takes over steps at other frames than the one before, and decides a little later
AT_START = 5  # one of so many is there when the daemon starts


class _Shop:
    """Where artifacts are made: whole, signed, of any number; and spoilt."""

    def __init__(self, folder: Path, original: Path) -> None:
        self.place = folder / "keyword"
        self._original = original
        self.trusted = make_key(folder / "release")
        make_key(folder / "stranger")
        self._key, self._stranger = read_key(folder / "release"), read_key(folder / "stranger")

    def put(self, name: str) -> None:
        """Put a whole one in place, with a name of its own, as a folder that was made beside it."""
        fresh = self.place.with_name("fresh")
        sign(self._write(fresh, name), self._key)
        shutil.rmtree(self.place, ignore_errors=True)
        fresh.rename(self.place)

    def _write(self, folder: Path, name: str, **facts: object) -> Artifact:
        shutil.rmtree(folder, ignore_errors=True)
        manifest = json.loads((self._original / MANIFEST).read_text())
        files = {file: (self._original / file).read_bytes() for file in manifest.pop("files")}
        return write_artifact(folder, {**manifest, "name": name, **facts}, files)

    def spoil(self, way: str, name: str) -> None:
        """Put one in place that is spoilt in some way; it has a fitting signature wherever it can."""
        self._write(self.place, name)
        WAYS[way](self)
        if way not in ("unsigned", "signed by a stranger"):
            with contextlib.suppress(EdgeRNNError, OSError):
                sign(Artifact.open(self.place), self._key)

    def flip(self, count: int = 1) -> None:
        model = next(self.place.glob("step.*"))
        content = bytearray(model.read_bytes())
        for place in range(len(content) // 2, len(content) // 2 + count):
            content[place] ^= 0xFF
        model.write_bytes(content)

    def cut(self, pattern: str) -> None:
        for file in self.place.glob(pattern):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    def lose(self, pattern: str) -> None:
        for file in self.place.glob(pattern):
            file.unlink()

    def other_version(self) -> None:
        manifest = json.loads((self.place / MANIFEST).read_text())
        (self.place / MANIFEST).write_text(json.dumps({**manifest, "format_version": 99}))

    def other_model(self) -> None:
        """A model that is another one, with fitting digests and signature: the certificate alone tells."""
        manifest = json.loads((self._original / MANIFEST).read_text())
        files = {file: (self._original / file).read_bytes() for file in manifest.pop("files")}
        for file in [file for file in files if file.startswith("step.")]:
            files[file] = _other_weights(files[file])
        shutil.rmtree(self.place)
        write_artifact(self.place, manifest, files)

    def sign_as_stranger(self) -> None:
        sign(Artifact.open(self.place), self._stranger)

    def half_copied(self) -> None:
        names = sorted(path.name for path in self.place.iterdir())
        for name in names[len(names) // 2 :]:
            (self.place / name).unlink()


def _other_weights(model: bytes) -> bytes:
    """Return a model with other numbers in the middle of its largest weights, still well formed."""
    content = bytearray(model)
    begin = len(content) // 2 // 4 * 4
    content[begin : begin + 8000] = bytes(reversed(content[begin : begin + 8000]))
    return bytes(content)


WAYS = {
    "a flipped byte": _Shop.flip,
    "half a model": lambda shop: shop.cut("step.*"),
    "half a manifest": lambda shop: shop.cut(MANIFEST),
    "no manifest": lambda shop: shop.lose(MANIFEST),
    "no model": lambda shop: shop.lose("step.*"),
    "nothing": lambda shop: shutil.rmtree(shop.place),
    "another version of the format": _Shop.other_version,
    "another model": _Shop.other_model,
    "half a certificate": lambda shop: shop.cut(CERTIFICATE),
    "half a folder": _Shop.half_copied,
    "unsigned": lambda shop: shop.lose(SIGNATURE),
    "signed by a stranger": _Shop.sign_as_stranger,
}


def corrupt(bench: Bench) -> Faults:
    """Swap in one after the other, and then a whole one; every fifth time, a daemon starts with the corrupt one."""
    faults, shop = Faults("corrupt artifact swapped in"), _Shop(bench.folder, bench.sound.artifact)
    ways, starts = list(WAYS), 0
    certified = (bench.sound.artifact / CERTIFICATE).exists()
    if not certified:  # as in a quick test
        ways = [way for way in ways if way not in ("another model", "half a certificate")]
    shop.put("whole")
    daemon, feed, life = None, None, -1
    try:
        for number in bench.each(faults):
            way = ways[number % len(ways)]
            if daemon is None or feed is None:
                life += 1
                daemon, feed = _begin(bench, shop, life)
            elif number % AT_START == AT_START - 1:
                _finish(bench, faults, daemon, feed, life)
                shop.spoil(way, f"spoilt {number}")
                life, starts = life + 1, starts + 1
                daemon, feed = _begin(bench, shop, life)
                _until_refused(daemon, 0, way)
                _mend(bench, faults, shop, daemon, number)
                continue
            refused = daemon.metric("edgernn_artifact_refused_total")
            shop.spoil(way, f"spoilt {number}")
            _until_refused(daemon, refused, way)
            bench.pause(0.0, 0.3)
            _mend(bench, faults, shop, daemon, number)
        if daemon and feed:
            _finish(bench, faults, daemon, feed, life)
    except Hung:
        if daemon:
            daemon.kill()
        raise
    faults.notes.append(f"{starts} of them at a start; ways: {', '.join(ways)}")
    return faults


def _begin(bench: Bench, shop: _Shop, life: int) -> tuple[Serve, Feed]:
    daemon = Serve(
        bench.folder,
        f'state = "{bench.folder / "state"}"\n[store]\nwatch_s = 0.1\ntrusted_keys = "release.pub"\n'
        f'[pipeline.hall]\nartifact = "{shop.place}"\nsource = "stdin:"\nsinks = "json:{_file(bench, life)}"\n',
    )
    return daemon, Feed(bench.sound, daemon)


def _file(bench: Bench, life: int) -> Path:
    return bench.folder / f"events{life}.jsonl"


def _until_refused(daemon: Serve, before: float, way: str) -> None:
    until(lambda: daemon.metric("edgernn_artifact_refused_total") > before, f"{way}: it is not refused", every_s=0.05)


def _mend(bench: Bench, faults: Faults, shop: _Shop, daemon: Serve, number: int) -> None:
    """Put a whole one in place, newer than the last."""
    name = f"whole {number}"
    shop.put(name)
    taken = until(lambda: daemon.metric("edgernn_artifact_info", artifact=name), f"{name} does not take over")
    faults.recoveries_s.append(taken)


def _finish(bench: Bench, faults: Faults, daemon: Serve, feed: Feed, life: int) -> None:
    said = feed.stop()
    daemon.finish()
    expected, messages, kept = bench.sound.events(said), read_lines(_file(bench, life)), []
    for message in messages:
        key = key_of(message.event)
        known = any(key[0] == other[0] and abs(key[2] - other[2]) <= WITHIN_S for other in expected)
        if known or not bench.sound.is_heard_anew(b"".join(said), key, WITHIN_S):
            kept.append(message)
    if more := len(messages) - len(kept):
        faults.notes.append(f"life {life}: {more} events more, which a stream hears that began with the latest sound")
    faults.compare(expected, kept, within_s=WITHIN_S)
