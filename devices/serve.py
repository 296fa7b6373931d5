"""`edgernn serve`: the daemon, as its configuration says (`edgernn.devices.daemon.config`).

edgernn serve edge.toml --check
edgernn serve edge.toml --set pipeline.hall.source=mic:USB
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import textwrap
import threading
from collections.abc import Sequence

from edgernn.devices.daemon.check import check
from edgernn.devices.daemon.config import SECTIONS, Config, PipelineConfig
from edgernn.devices.daemon.fields import Address, readers
from edgernn.devices.daemon.load import load
from edgernn.devices.daemon.log import logged
from edgernn.devices.daemon.supervisor import Supervisor

__all__ = ["main"]


def main(arguments: Sequence[str], prog: str) -> int:
    """Run the command; return the exit status."""
    options = _parser(prog).parse_args(arguments)
    read = functools.partial(load, options.config, None, options.set)
    config = read()
    with logged(config.log, config.level):
        if options.check:
            print(check(config, here=True))
            return 0
        status = Supervisor(read).run()
        _leave_if_hung(status)
    return status


def _leave_if_hung(status: int) -> None:
    """End the process though a thread still waits, inside a library, for a device or a server that never answers."""
    hung = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if hung:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Run pipelines for months: each from a source through an artifact to sinks. SIGHUP reloads the\n"
        "configuration, SIGTERM ends within two seconds.",
        epilog="Every value also comes from the environment, as in EDGERNN_PIPELINE_HALL_SOURCE=mic:, and --set goes\n"
        f"over both.\n\nkeys of the configuration, and what they are by default:\n{_keys()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="configuration, in TOML")
    parser.add_argument("--check", action="store_true", help="check all that can be checked without starting, and end")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another value, as in pipeline.hall.late_s=0.5"
    )
    return parser


def _keys() -> str:
    """Return every table with its keys, as the configuration itself knows them."""
    tables = {"": Config, "[pipeline.NAME]": PipelineConfig, **{f"[{name}]": kind for name, kind in SECTIONS.items()}}
    found = []
    for head, section in tables.items():
        keys = (name + _shown(getattr(section, name, None)) for name in readers(section))
        found += [f"  {head or 'above the tables'}"]
        found += textwrap.wrap(", ".join(keys), 88, initial_indent="    ", subsequent_indent="    ")
        if section is PipelineConfig:
            found += ["  [sink.NAME]", "    uri, and the options of the sink (edgernn run --help)"]
    return "\n".join(found)


def _shown(default: object) -> str:
    """Return a default as `=VALUE`, and nothing for what is not set."""
    if default is None or default == ():
        return ""
    value = f"{default[0]}:{default[1]}" if isinstance(default, Address) else default
    text = ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"={text.lower() if isinstance(value, bool) else text}"
