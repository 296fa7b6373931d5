"""edgernn train: fills a recipe from the command line and runs it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgernn.clips import labels_of
from edgernn.errors import MissingDependencyError, UsageError
from edgernn.files import check_there
from edgernn.quiet import quiet_stderr
from edgernn.train.recipe import Recipe, fine_tuning, preset, read_recipe

__all__ = ["main"]


def main(arguments: Sequence[str], prog: str) -> int:
    """Run `edgernn train`; return the exit status."""
    options = _parser(prog).parse_args(arguments)
    run = Path(options.output)
    recipe = _recipe(options, run)
    if not recipe.words:
        raise UsageError(f"there are no words to tell apart: name folders of {options.data}, such as --words up,down")
    labels_of(recipe.words)
    check_there(Path(options.data), "a folder with a folder of recordings for each word")
    try:
        with quiet_stderr():
            import keras

            keras.ops.zeros(1)  # it looks for devices, and talks about them, only now
            from edgernn.train.keyword import train_keywords
    except ModuleNotFoundError as error:
        raise MissingDependencyError("training", error.name or "keras", "train") from error
    facts = train_keywords(Path(options.data), run, recipe, options.finetune)
    print((run / "confusion.txt").read_text(encoding="utf-8"))
    print(f"{run}: {facts['parameters']:,} parameters, trained in {facts['seconds']:.0f} s")
    print(f"next: edgernn convert {run} -o ARTIFACT")
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog, description="Train a model for a task.")
    tasks = parser.add_subparsers(title="tasks", metavar="TASK", required=True)
    task = tasks.add_parser(
        "keyword-spotting",
        help="tell a few words from all other sound",
        description="Train a model that tells a few words from other words (unknown) and no speech (silence).",
        epilog="Options given here override the recipe; what neither says has a default, see RUN/recipe.toml.",
    )
    task.add_argument("--data", required=True, metavar="DIR", help="folder of clips, DIR/<word>/<name>.wav or .flac")
    task.add_argument("-o", "--output", required=True, metavar="RUN", help="folder for the model and all about it")
    task.add_argument("--words", metavar="A,B,…", help="the words to tell apart")
    task.add_argument("--model", metavar="KIND", help="crnn (default), gru or lstm")
    task.add_argument("--recipe", metavar="FILE", help="a TOML recipe, such as another run's recipe.toml")
    task.add_argument(
        "--finetune", type=Path, metavar="RUN", help="begin with the weights and the recipe of another run; 6 epochs"
    )
    task.add_argument(
        "--quantize-aware", metavar="SCHEME", help="int8 or int4: train for the rounding of a conversion to that"
    )
    task.add_argument("--epochs", type=int, metavar="N", help="train at most this long")
    task.add_argument("--seed", type=int, metavar="N", help="another seed, another run; the same, the same")
    task.add_argument("--name", help="what the artifact will be called")
    task.add_argument("--resume", action="store_true", help="go on with the training in RUN")
    return parser


def _recipe(options: argparse.Namespace, run: Path) -> Recipe:
    """Return the recipe that the options ask for, and check that `run` is free for it or may be gone on with."""
    begun = (run / "recipe.toml").is_file()
    if not options.resume:
        if run.is_file() or (run.is_dir() and any(run.iterdir())):
            hint = "go on with --resume, or " if begun else ""
            raise UsageError(f"{run} exists already: {hint}choose another folder for the run")
        return _override(_start(options), options)
    if not begun:
        raise UsageError(f"there is no training to resume in {run}: it has no recipe.toml")
    saved = read_recipe(run / "recipe.toml")
    wanted = _override(read_recipe(Path(options.recipe)) if options.recipe else saved, options)
    if wanted.fit.epochs != saved.fit.epochs:
        raise UsageError(
            f"{run} was begun for {saved.fit.epochs} epochs, when its learning rate has decayed: that cannot be "
            f"resumed towards {wanted.fit.epochs}; go on with --resume alone, or train anew in another folder"
        )
    if wanted != saved:
        raise UsageError(f"{run} was begun with another recipe: --resume takes no options that change it")
    return saved


def _start(options: argparse.Namespace) -> Recipe:
    if options.finetune is None:
        return read_recipe(Path(options.recipe)) if options.recipe else preset(options.model or "crnn")
    if options.words or options.model or options.recipe:
        raise UsageError(
            "--finetune takes words, model and recipe from its run: leave out --words, --model and --recipe"
        )
    check_there(options.finetune, "the folder of a training run")
    if not (options.finetune / "model.keras").is_file():
        raise UsageError(
            f"--finetune {options.finetune}: expected the folder of a training run, with model.keras in it"
        )
    return fine_tuning(read_recipe(options.finetune / "recipe.toml"))


def _override(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    if options.words is not None:
        recipe = replace(recipe, words=tuple(filter(None, (word.strip() for word in options.words.split(",")))))
    if options.model is not None and options.model != recipe.model.kind:
        recipe = replace(recipe, model=replace(recipe.model, kind=options.model))
    if options.epochs is not None:
        recipe = replace(recipe, fit=replace(recipe.fit, epochs=options.epochs))
    if options.quantize_aware is not None:
        recipe = replace(recipe, fit=replace(recipe.fit, quantize_aware=options.quantize_aware))
    if options.seed is not None:
        recipe = replace(recipe, seed=options.seed)
    return replace(recipe, name=options.name) if options.name is not None else recipe
