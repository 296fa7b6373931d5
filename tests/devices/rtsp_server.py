# mypy: ignore-errors
"""A camera that speaks RTSP: GStreamer's server, run by the system's Python, which alone has its bindings.

rtsp_server.py PORT: 50 pictures of 64 by 48 a second at /1, for anna with the password p@ss. Prints the port.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PICTURES = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=64,height=48,framerate=50/1"


def main(port: str) -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    auth, token = GstRtspServer.RTSPAuth.new(), GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic("anna", "p@ss"), token)
    server.set_auth(auth)
    factory = GstRtspServer.RTSPMediaFactory.new()
    factory.set_launch(f"( {PICTURES} ! jpegenc ! rtpjpegpay name=pay0 pt=26 )")
    factory.set_shared(True)
    rights = "viewer, media.factory.access=true, media.factory.construct=true"
    factory.add_role_from_structure(Gst.Structure.new_from_string(rights))
    server.get_mount_points().add_factory("/1", factory)
    if not server.attach(None):
        sys.exit(f"the port {port} is taken")
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


main(sys.argv[1])
