"""The other sides of sources, for real: who sends datagrams, writes files, pulls wires, and shows pictures."""

from __future__ import annotations

import itertools
import os
import select
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
import wave
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from tests.devices.mosquitto import until

__all__ = [
    "NO_GSTREAMER", "RATE", "SIZE", "Grower", "MjpegCamera", "Pipe", "RtspCamera", "Sender", "Wire", "free_port",
    "level", "picture", "record", "rtp", "write_video",
]  # fmt: skip

RATE = 16000
SIZE = 320
SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin") or "python3"
SERVER = Path(__file__).with_name("rtsp_server.py")
IMPORTS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
NO_GSTREAMER = subprocess.run([SYSTEM_PYTHON, "-c", IMPORTS], check=False, capture_output=True).returncode != 0


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def record(path: Path, level: float, seconds: float = 0.1) -> Path:
    """Write a recording, whole at once, as a copy would not be."""
    aside = path.with_suffix(".part")
    with wave.open(str(aside), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.full(int(seconds * RATE), level * 32768, "<i2").tobytes())
    return aside.rename(path)


def level(number: int) -> np.ndarray:
    return np.full(SIZE, number, np.int16)


def rtp(number: int, samples: np.ndarray, stamp: int | None = None, kind: int = 96, sender: int = 7) -> bytes:
    stamp = number * SIZE if stamp is None else stamp
    head = struct.pack("!BBHII", 0x80, kind, number & 0xFFFF, stamp & 0xFFFFFFFF, sender)
    return head + samples.astype(">i2").tobytes()


class Sender:
    """Sends numbered packets to a port."""

    def __init__(self, port: int, form: Callable[[int], bytes]) -> None:
        self._port, self._form, self._numbers = port, form, itertools.count()
        self.begin()

    def begin(self) -> None:
        """Begin, or begin anew as another program would."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def send(self, data: bytes) -> None:
        self._socket.sendto(data, ("127.0.0.1", self._port))

    def give(self) -> int:
        self.send(self._form(next(self._numbers)))
        time.sleep(0.0002)  # the kernel, too, holds only so many
        return SIZE

    def close(self) -> None:
        self._socket.close()


class Pipe:
    """Standard input, with a program before it."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.stream: Any = os.fdopen(reading, "rb")
        self._program = os.fdopen(writing, "wb", buffering=0)

    def give(self) -> int:
        self._program.write(level(9).tobytes())
        return SIZE

    def end(self) -> None:
        """Let the program end."""
        self._program.close()

    def close(self) -> None:
        self.stream.close()
        self.end()


class Grower:
    """Adds rows to a file, that is opened for each of them."""

    def __init__(self, path: Path) -> None:
        self.path, self.numbers = path, itertools.count()

    def give(self) -> int:
        with self.path.open("a") as file:
            file.write(f"{next(self.numbers)},0\n")
        return 1


class Wire:
    """Two pseudo-terminals joined by socat, which can be pulled out."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.theirs = folder / "ours", folder / "theirs"
        self.numbers = itertools.count()
        self.plug()

    def plug(self) -> None:
        ends = (f"pty,raw,echo=0,link={self.ours}", f"pty,raw,echo=0,link={self.theirs}")
        self._socat = subprocess.Popen(["socat", *ends])
        until(lambda: self.ours.exists() and self.theirs.exists())
        self._end = os.open(self.theirs, os.O_WRONLY | os.O_NOCTTY)
        os.write(self._end, b"half a li")

    def pull(self) -> None:
        """Kill socat; the ends go with it."""
        self._socat.kill()
        self._socat.wait()
        os.close(self._end)
        for end in (self.ours, self.theirs):
            end.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        os.write(self._end, data)

    def give(self) -> int:
        number = next(self.numbers)
        self.write(f"{number},{-number}\n".encode() if number else b"ne\n0,0\n")
        return 1


def picture(number: int) -> np.ndarray:
    """Return a picture whose blue tells its number."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[..., 0] = number
    return image


def write_video(path: Path) -> Path:
    """Write two seconds, 30 pictures each."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (64, 48))
    for number in range(60):
        writer.write(picture(4 * number))
    writer.release()
    return path


class _Mjpeg(BaseHTTPRequestHandler):
    """Pictures without end, 100 a second, to who knows the password."""

    numbers = itertools.count()

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != "Basic YW5uYTpwQHNz":  # anna:p@ss
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
        self.end_headers()
        server: Any = self.server
        while server.on:
            data = cv2.imencode(".jpg", picture(next(self.numbers) % 200))[1].tobytes()
            try:
                self.wfile.write(b"--part\r\nContent-Type: image/jpeg\r\n")
                self.wfile.write(b"Content-Length: %d\r\n\r\n%s\r\n" % (len(data), data))
            except OSError:
                return
            time.sleep(0.01)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class MjpegCamera:
    """A camera's web server, which can be taken away."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.port, self._tls = 0, tls
        self.plug()

    def plug(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _Mjpeg)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        if self._tls:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._server.on = True  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def pull(self) -> None:
        self._server.on = False  # type: ignore[attr-defined]
        self._server.shutdown()
        self._server.server_close()


class RtspCamera:
    """GStreamer's server in a process of its own, which is killed with -9."""

    def __init__(self) -> None:
        self.port = 0
        self.plug()

    def plug(self) -> None:
        self._process = subprocess.Popen([SYSTEM_PYTHON, SERVER, str(self.port)], stdout=subprocess.PIPE)
        out: IO[bytes] | None = self._process.stdout
        assert out
        assert select.select([out], [], [], 20)[0], "GStreamer's RTSP server does not start"
        self.port = int(out.readline())

    def pull(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
