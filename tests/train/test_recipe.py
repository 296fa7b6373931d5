from dataclasses import replace
from pathlib import Path

import pytest

from edgernn.errors import UsageError
from edgernn.train.recipe import PRESETS, AugmentRecipe, FitRecipe, ModelRecipe, Recipe, read_recipe, write_recipe


@pytest.mark.parametrize("recipe", [*PRESETS.values(), Recipe(("a", "b"), seed=7, fit=FitRecipe(epochs=3))])
def test_a_recipe_survives_its_file(tmp_path: Path, recipe: Recipe) -> None:
    write_recipe(tmp_path / "recipe.toml", recipe)
    assert read_recipe(tmp_path / "recipe.toml") == recipe


def test_what_a_file_leaves_out_keeps_its_default(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('words = ["up"]\n[augment]\nsnr_db = [5, 20]\n[fit]\nlearning_rate = 1\n')
    expected = Recipe(("up",), augment=AugmentRecipe(snr_db=(5.0, 20.0)), fit=FitRecipe(learning_rate=1.0))
    assert read_recipe(path) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "the recipe has the unknown key epoch; the keys are: words, task, "),
        ("[fit]\nepoch = 3", r"\[fit\] has the unknown key epoch; the keys are: epochs, batch, "),
        ("[fit]\nepochs = 3.5", "fit.epochs is 3.5, expected a value like "),
        ("seed = true", "seed is True"),
        ("fit = 3", "fit is 3"),
        ("words = [1]", r"words is 1, expected a value like ''"),
        ("words = ", "is not TOML"),
        ("[fit]\nepochs = 0", "fit.epochs must be at least 1"),
        ("[model]\nunits = []", "model.units"),
        ("[model]\ndropout = 1.5", "model.dropout"),
        ("[augment]\nsnr_db = [20.0, 5.0]", "augment.snr_db"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_recipe(tmp_path / "recipe.toml")
    assert "recipe.toml" in str(caught.value)


def test_a_recipe_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"recipe\.toml does not exist"):
        read_recipe(tmp_path / "recipe.toml")


def test_recipes_are_values() -> None:
    assert replace(Recipe(), model=ModelRecipe()) == Recipe()
    assert len({Recipe(), Recipe(), Recipe(seed=2)}) == 2
