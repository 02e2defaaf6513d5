"""Recipes, keys and Python in the pages are those of today: checked against the schema, compiled, their names imported.

docs/recipe.md itself is written from the schema; it is compared here with what would be written now.
"""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from masters_edge import recipe as recipes
from masters_edge.common.errors import UserError
from masters_edge.recipe import Recipe, reference
from tests.docs.keys import problem_of_key, problem_of_value
from tests.docs.pages import ROOT, Page, pages

# What a recipe must have, for those that show a part of one.
REST = {"student": "./student", "teachers": ["./teacher"], "data": {"train": {"source": "easy-vqa"}}}
SECTIONS = "|".join(Recipe.model_fields)
# `train.phases.0.steps`, `mask.r_max=0.1`, `quantize.qat: {share: 0.2}`; a file's name is none.
KEY = re.compile(rf"((?:{SECTIONS})(?:\.[a-z_0-9]+)+)(?:(?:=|: )(.+))?", re.DOTALL)
FILE = re.compile(r"\.(md|json|jsonl|yaml|png|html|csv|py|js|sqlite|parquet)$")


def problem_of_recipe(text: str, folder: Path) -> str | None:
    """What `validate` would say of a recipe, or of a part of one."""
    given = yaml.safe_load(text)
    if not isinstance(given, dict) or not given.keys() <= Recipe.model_fields.keys():
        return f"no part of a recipe: {text}"
    data = given.get("data", {})
    whole = REST | given | {"data": REST["data"] | data | {"train": REST["data"]["train"] | data.get("train", {})}}
    path = folder / "shown.yaml"
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    try:
        recipes.load(path)
    except UserError as error:
        return str(error)
    return None


def problem_of_code(code: str) -> str | None:
    """Why code in a sentence names no key of today; None for one that does, and for what is no key."""
    if (found := KEY.fullmatch(code)) is None or FILE.search(found[1]):
        return None
    return problem_of_key(found[1]) if found[2] is None else problem_of_value(found[1], yaml.safe_load(found[2]))


def problem_of_python(source: str) -> str | None:
    """Whether it compiles, and whether all that it imports from here, and uses of that by name, is there.

    Modules are looked into, not run, since some take half a minute to import; of other people's it's enough that they
    are installed.
    """
    tree = ast.parse(source)
    known: dict[str, str] = {}  # what a name of the snippet stands for: a.module, or a.module:Class
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [(alias.asname or alias.name, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            wanted = [(alias.asname or alias.name, f"{node.module}:{alias.name}") for alias in node.names]
        else:
            continue
        for name, place in wanted:
            module, _, member = place.partition(":")
            if not _installed(module):
                return f"there is no module {module}"
            if member and _installed(f"{module}.{member}"):
                place, member = f"{module}.{member}", ""
            if module.partition(".")[0] == "masters_edge":
                if member and member not in _names(module):
                    return f"{module} has no {member}"
                known[name] = place
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            names = _names(known[node.value.id])
            if names and node.attr not in names:
                return f"{node.value.id} has no {node.attr}"
    return None


def _installed(module: str) -> bool:
    if module.partition(".")[0] == "masters_edge":
        return _file(module) is not None
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def _file(module: str) -> Path | None:
    """Where a module of ours lies. Only its room is found by import, which is quick; what is inside by its path."""
    parts = module.split(".")
    spec = importlib.util.find_spec(".".join(parts[:2]))
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    for part in parts[2:]:
        if path.name != "__init__.py":
            return None
        inner = [path.parent / part / "__init__.py", path.parent / f"{part}.py"]
        if (path := next((file for file in inner if file.is_file()), Path())) == Path():
            return None
    return path


def _names(place: str) -> set[str]:
    """The names in a module, or in a class `a.module:Class`; none where a base class may bring more of them."""
    module, _, member = place.partition(":")
    file = _file(module)
    assert file is not None
    body = ast.parse(file.read_text(encoding="utf-8")).body
    if member:
        found = next((node for node in body if isinstance(node, ast.ClassDef) and node.name == member), None)
        for node in body:
            if found is None and isinstance(node, ast.ImportFrom) and member in [alias.name for alias in node.names]:
                return _names(f"{node.module}:{member}")
        if found is None or found.bases:
            return set()
        body = found.body
    names = set()
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
        names |= {alias.asname or alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)}
        names |= {node.name} if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else set()
        if isinstance(node, ast.If):  # `if TYPE_CHECKING:` names what the module hands out when it is asked for
            names |= {alias.name for n in node.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    return names


EVERY = pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())


@EVERY
def test_recipes_are_valid(path: Path, tmp_path: Path) -> None:
    assert not [why for block in Page.read(path).blocks("yaml") if (why := problem_of_recipe(block, tmp_path))]


@EVERY
def test_keys_in_sentences_exist(path: Path) -> None:
    assert not [f"{code}: {why}" for code in Page.read(path).codes() if (why := problem_of_code(code))]


@EVERY
def test_python_is_importable(path: Path) -> None:
    assert not [why for block in Page.read(path).blocks("python") if (why := problem_of_python(block))]


def test_the_reference_is_the_schema_s() -> None:
    written = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert written == reference.page(), "write it again: python -m masters_edge.recipe.reference > docs/recipe.md"


def test_the_reference_has_every_key() -> None:
    told = {code for code in Page.read(ROOT / "docs" / "recipe.md").codes()}
    assert {"seed", "data.labels", "train.phases.0.steps", "quantize.qat.share", "reward.judge.timeout_s"} <= told


@pytest.mark.parametrize(
    "text",
    ["mask: {rmax: 0.1}", "mask: {r_max: 1.0}", "masks: {}", "- a list", "data: {labels: some}", "seed: -1"],
)
def test_a_recipe_that_is_wrong_is_found(text: str, tmp_path: Path) -> None:
    assert problem_of_recipe(text, tmp_path)


@pytest.mark.parametrize(
    "code",
    ["train.phases.0.stepps", "mask.rmax", "responses.split: automatic", "quantize.qat: {shares: 0.2}", "seed.x"],
)
def test_a_key_that_is_wrong_is_found(code: str) -> None:
    assert problem_of_code(code)


@pytest.mark.parametrize(
    "source",
    [
        "from masters_edge.runtime import Studnet",
        "import masters_edge.no_such_room",
        "from masters_edge import recipe\nrecipe.no_such_function()",
        "from masters_edge.runtime import Student\nStudent.lod('bundle')",
        "import no_such_library",
        "from masters_edge.no_such_room import thing",
    ],
)
def test_python_that_is_wrong_is_found(source: str) -> None:
    assert problem_of_python(source)
