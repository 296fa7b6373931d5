"""`edgernn serve` as a process with its page open, fed with the demo's recording over and over."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
import wave
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

EDGERNN = [sys.executable, "-W", "error", "-c", "import sys; from edgernn.cli import main; sys.exit(main())"]
DEMO = Path(__file__).parents[2] / "train/pretrained/samples/demo.wav"
CHUNK_S = 0.02


class Serving:
    """A daemon with two pipelines of one artifact: "hall" hears what is played, "kitchen" a recording that ends."""

    def __init__(self, folder: Path, artifact: Path, listen: str = "127.0.0.1:0") -> None:
        self._folder, self._artifact = folder, artifact
        self._write("", listen)
        with (folder / "log").open("wb") as log:
            command = [*EDGERNN, "serve", str(folder / "edge.toml")]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log)
        try:
            self.url = self._wait_for_url()
        except BaseException:
            self._end()
            raise
        self._playing = threading.Event()
        self._playing.set()
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def configure(self, more: str = "", listen: str = "127.0.0.1:0") -> None:
        """Give it another configuration, with more keys of the pipeline "hall", and have it read that."""
        self._write(more, listen)
        self.process.send_signal(signal.SIGHUP)

    def _write(self, more: str, listen: str) -> None:
        folder, artifact = self._folder, self._artifact
        (folder / "edge.toml").write_text(
            f'state = "{folder / "state"}"\nhttp.listen = "{listen}"\nlevel = "debug"\n'
            f'[pipeline.hall]\nartifact = "{artifact}"\nsource = "stdin:"\n{more}\n'
            f'sinks = ["json:{folder / "events"}", "down"]\n'
            f'[pipeline.kitchen]\nartifact = "{artifact}"\nsource = "{DEMO}"\nsinks = "json:{folder / "events"}"\n'
            f'fast = true\n[sink.down]\nuri = "unix:{folder / "nobody"}"\n'
        )

    def find_url(self) -> None:
        """Look where the page is by now."""
        self.url = re.findall(r"live page is at (http://\S+)", self.log)[-1]

    @property
    def log(self) -> str:
        """What it said so far."""
        return (self._folder / "log").read_text()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 80)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        """Ask once; return status, headers and body."""
        connection = HTTPConnection(*self.address, timeout=10)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()

    def wait_until(self, path: str, *words: str, within_s: float = 10) -> Any:
        """Ask for JSON until all words are in the answer."""
        until = time.monotonic() + within_s
        while True:
            body = self.get(path)[2]
            if all(word in body for word in words):
                return json.loads(body) if body.startswith("{") else body
            assert time.monotonic() < until, body
            time.sleep(0.05)

    def close(self) -> None:
        self._playing.clear()
        self._thread.join()
        self._end()

    def _end(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def _wait_for_url(self) -> str:
        until = time.monotonic() + 20
        while not (found := re.search(r"live page is at (http://\S+)", self.log)):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(0.02)
        return found[1]

    def _play(self) -> None:
        with wave.open(str(DEMO)) as file:
            data = file.readframes(file.getnframes())
            size = 2 * round(CHUNK_S * file.getframerate())
        assert self.process.stdin is not None
        begin, number = time.monotonic(), 0
        with contextlib.suppress(BrokenPipeError):
            while self._playing.is_set():
                start = number * size % (len(data) - size)
                self.process.stdin.write(data[start : start + size])
                self.process.stdin.flush()
                number += 1
                time.sleep(max(0.0, begin + number * CHUNK_S - time.monotonic()))
