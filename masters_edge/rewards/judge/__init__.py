"""R_acc by a language model (METHOD 5): what it is asked, how its answer is read, who answers, what is kept."""

from pathlib import Path

from masters_edge.common.files import at_home
from masters_edge.recipe import Recipe, checkpoint
from masters_edge.recipe.schema import Judge


def resolved(judge: Judge, recipe_path: Path) -> Judge:
    """The judge with its model as transformers finds it: a folder or .gguf file beside the recipe as an absolute path,
    a hub id or a server's name for it as it is.

    Raises:
        UserError: a path that starts with `.`, `/` or `~` where there is nothing.
    """
    if judge.url is not None:
        return judge
    file = (recipe_path.parent / at_home(judge.model)).resolve()
    gguf = file.suffix == ".gguf" and file.is_file()
    return judge.model_copy(update={"model": str(file) if gguf else checkpoint(judge.model, recipe_path)})


def with_judge(recipe: Recipe, recipe_path: Path) -> Recipe:
    """The recipe with its judge's model as transformers finds it."""
    if recipe.reward.judge is None:
        return recipe
    judge = resolved(recipe.reward.judge, recipe_path)
    return recipe.model_copy(update={"reward": recipe.reward.model_copy(update={"judge": judge})})
