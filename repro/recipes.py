"""The papers' trainings as typed configurations, read from `conf/recipe/`. Needs neither Hydra nor torch."""

from __future__ import annotations

from pydantic import ValidationError

from repro.config import About, RecipeConfig
from repro.defaults import read_option
from repro.errors import InputError, unknown
from repro.mistakes import first_mistake
from repro.paths import options


def load_recipe(name: str) -> RecipeConfig:
    """Return the recipe `conf/recipe/NAME.yaml`.

    Raises InputError for an unknown recipe, with the nearest name, and for a file that says what cannot be.
    """
    if name not in options("recipe"):
        raise unknown("recipe", name, options("recipe"))
    try:
        return RecipeConfig.model_validate(read_option("recipe", name))
    except ValidationError as error:
        raise InputError(f"recipe {name}: {first_mistake(error, RecipeConfig)[1]}") from None


def about_of(recipe: RecipeConfig) -> About:
    """Return where a recipe comes from. Raises InputError where its file does not say."""
    if recipe.about is None:
        raise InputError(f"recipe {recipe.name}: about is null; expected paper, section, data, images, model, hardware")
    return recipe.about


def steps_per_epoch(recipe: RecipeConfig) -> int:
    """Return the full batches in the paper's training images. Raises InputError where there is none."""
    images = about_of(recipe).images
    if images < recipe.batch_size:
        raise InputError(f"recipe.batch_size={recipe.batch_size} is more than the {images} training images")
    return images // recipe.batch_size
