"""`edgernn sign`: who vouches for an artifact, so that a daemon takes no other one.

edgernn sign --new-key release
edgernn sign ARTIFACT --key release
edgernn verify ARTIFACT --trusted release.pub
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edgernn.artifact import SIGNATURE, Artifact
from edgernn.devices.signing import make_key, read_key, sign
from edgernn.errors import UsageError

__all__ = ["main"]


def main(arguments: Sequence[str], prog: str) -> int:
    """Run the command; return the exit status."""
    options = _parser(prog).parse_args(arguments)
    if options.new_key is not None:
        if options.artifact or options.key:
            raise UsageError("--new-key makes a key and signs nothing: sign with it afterwards")
        made = make_key(Path(options.new_key))
        print(f"{options.new_key}: a new private key, for you alone\n{options.new_key}.pub: {made.fingerprint}")
        return 0
    if options.artifact is None or options.key is None:
        raise UsageError("name the artifact and its signer's key: edgernn sign ARTIFACT --key KEY")
    artifact = Artifact.open(options.artifact)  # nobody should sign what is broken
    signer = sign(artifact, read_key(Path(options.key)))
    print(f"{artifact.path / SIGNATURE}: signed by {signer.fingerprint}")
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Sign an artifact (Ed25519 over its manifest, whose digests cover every other file), or make a key "
        "to sign with. A key of ssh-keygen -t ed25519 without a password is one, too.",
    )
    parser.add_argument("artifact", nargs="?", help="folder that edgernn convert wrote")
    parser.add_argument("--key", metavar="KEY", help="the signer's private key")
    parser.add_argument("--new-key", metavar="NAME", help="write a new key to NAME, its public half to NAME.pub")
    return parser
