"""The options of edgernn convert."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edgernn.decode.spec import SCHEMES as SCHEMES_OF_DECODERS
from edgernn.quantize.options import DEFAULT_SCHEME
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.target import CPU, FLOORS, TARGETS

__all__ = ["parser_of"]


class _ListLayers(argparse.Action):
    """Prints what has a rule, and ends: no other option is needed then."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from edgernn.quantize.supported import listing

        print(listing())
        parser.exit()


def parser_of(prog: str) -> argparse.ArgumentParser:
    """Return the parser; it knows the options, and not which of them go together (`request`)."""
    parser = argparse.ArgumentParser(
        prog,
        usage=f"{prog} MODEL -o ARTIFACT [OPTIONS]; {prog} --help explains them",
        description="Turn a trained Keras or ONNX model into a streaming artifact, and prove that it is the same.",
        epilog="quantization: " + "; ".join(f"{s.name}: {s.about}" for s in SCHEMES.values()) + ".",
    )
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="a .keras, .h5 or .onnx file, or the folder of a SavedModel or of a training run",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="ARTIFACT",
        help="folder to write; an artifact that is there is replaced once the new one is proven, anything else never",
    )
    parser.add_argument(
        "--to", metavar="FORMATS", help="tflite or onnx or tflite,onnx (default: those that the quantization has)"
    )
    parser.add_argument(
        "--quantize",
        metavar="SCHEME",
        help=f"{', '.join(SCHEMES)} (default: {DEFAULT_SCHEME}; int8 for --target integer-only; all for "
        "--optimize-for)",
    )
    parser.add_argument(
        "--optimize-for",
        metavar="this-machine[,size]",
        help="build, prove and time every format and scheme here, and keep the fastest (smallest) that is true enough",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="DATA",
        help="examples of the input: .npz or .npy frames, a "
        "recording or a folder of them (default: the run's own, else generated noise)",
    )
    parser.add_argument(
        "--tolerance",
        metavar="E[,snr=DB][,accuracy=LOSS]",
        help="largest error allowed, as a share of the output's "
        "standard deviation where that is above one; least SNR; loss of dev accuracy (default: by scheme)",
    )
    _add_meaning(parser.add_argument_group("what its outputs mean (a training run says it itself)"))
    _add_target(parser.add_argument_group("what TFLite files are for"))
    _add_shape(parser.add_argument_group("how a step is shaped"))
    _add_bounds(
        parser.add_argument_group("bounded forms of what needs the whole sequence (never used unless asked for)")
    )
    parser.add_argument("--steps", type=int, default=512, metavar="N", help="steps to compare over (default: 512)")
    parser.add_argument(
        "--drift-steps",
        type=int,
        default=5000,
        metavar="N",
        help="steps that the drift certificate covers, for edgernn verify (default: 5000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the generated input (default: 0)")
    parser.add_argument("--name", help="what the artifact is called (default: the model's name)")
    parser.add_argument(
        "--context",
        action="append",
        default=[],
        metavar="INPUT[=LENGTH]",
        help="an input of a Keras model that is no sequence: given once, when a stream begins, such as what an encoder "
        "gave (default: inputs of one size beside sequences of any length); may be given several times",
    )
    onnx = parser.add_argument_group("ONNX files", "what cannot be told from the file; each may be given several times")
    for option, metavar, text in (
        ("--time-axis", "INPUT=AXIS", "which axis of an input is time, counted from 0"),
        ("--constant", "INPUT=NUMBER", "an input that is always the same, such as a sample rate"),
    ):
        onnx.add_argument(option, action="append", default=[], metavar=metavar, help=text)
    parser.add_argument("-q", "--quiet", action="store_true", help="print the result only")
    parser.add_argument("--list-layers", action=_ListLayers, help="print the layers and operators that have a rule")
    return parser


def _add_meaning(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--labels", metavar="A,B,…|FILE", help="names of the output's values; or a file, one a line")
    group.add_argument(
        "--decoder",
        metavar="URI",
        help="what edgernn run and serve make events with, unless they are told otherwise: "
        + "; ".join(f"{scheme}: {about}" for scheme, about in SCHEMES_OF_DECODERS.items()),
    )
    group.add_argument("--frame-rate", type=float, metavar="HZ", help="how many frames a second the model takes")


def _add_target(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--target",
        default=CPU.name,
        metavar="|".join(TARGETS),
        help="integer-only: no float operator and no float tensor, frames and outputs included, for accelerators and "
        "microcontrollers (default: cpu)",
    )
    group.add_argument(
        "--runtime-floor",
        metavar="RUNTIME",
        help=f"the oldest runtime that must take the file: {', '.join(FLOORS)} (default: today's LiteRT)",
    )


def _add_shape(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--frames-per-step",
        type=int,
        metavar="N",
        help="frames that one step takes, a multiple of what strides in time make necessary (default: just that)",
    )
    group.add_argument(
        "--batch", type=int, default=1, metavar="N", help="streams that one step serves, each with its own states"
    )
    group.add_argument(
        "--embed-frontend",
        action="store_true",
        help="put the audio front end of a training run into the model, which then takes samples (its frames are "
        "samples, and --calibrate wants recordings)",
    )
    group.add_argument(
        "--state",
        action="append",
        default=[],
        metavar="WHERE",
        help="external: states are tensors that each step takes and gives (default); internal: variables inside the "
        "model, for programs that cannot carry them (TFLite alone); INPUT=OUTPUT: a state that an ONNX file itself "
        "takes and gives (default: told by name and shape), may be given several times",
    )


def _add_bounds(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--bidirectional",
        metavar="chunk=C,lookahead=L",
        help="backward halves read blocks of C frames from the end of the L frames behind them",
    )
    group.add_argument(
        "--pooling",
        metavar="running|window=N",
        help="global pooling over all frames so far (the default, exact) or over the last N",
    )
    group.add_argument(
        "--attention-window",
        metavar="N[,lookahead=L]",
        help="each frame attends to the newest N frames, and where the model looks ahead, to the L after it",
    )
    group.add_argument(
        "--approximate",
        metavar="edges",
        help="a last frame or a global pooling may leave out frames whose look-ahead is not there yet",
    )
    group.add_argument(
        "--picture",
        type=Path,
        metavar="FILE.png",
        help="draw how near the bounded model is to the exact one, for one look-ahead after the other",
    )
