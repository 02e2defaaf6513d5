"""Recipes that come with masters-edge, and the demo's checkpoints. Files, read by `masters_edge.recipe.shipped`."""
