"""The recipe: its schema, how it is read, and what it plans."""

from masters_edge.recipe.load import checkpoint, dump, load, values
from masters_edge.recipe.schema import Phase, Recipe

__all__ = ["Phase", "Recipe", "checkpoint", "dump", "load", "values"]
