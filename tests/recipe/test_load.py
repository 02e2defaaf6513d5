"""Recipes: defaults of the paper, overrides, and one sentence with file, line and key for each mistake."""

from pathlib import Path

import pytest

from masters_edge.common.errors import UserError
from masters_edge.recipe import Recipe, checkpoint, dump, load
from masters_edge.run import outline

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
GOOD = """\
student: org/small
teachers: [org/large]
data:
  train: {source: easy-vqa, split: train}
mask:
  r_max: 0.2
"""


@pytest.fixture
def recipe(tmp_path: Path):
    def write(text: str = GOOD, *overrides: str) -> Recipe:
        path = tmp_path / "r.yaml"
        path.write_text(text)
        return load(path, overrides)

    return write


def test_defaults_are_the_papers(recipe) -> None:
    r = recipe()
    assert (r.mask.r_max, r.mask.step) == (0.20, 0.05)
    assert (r.responses.student, r.responses.teacher) == (4, 4)
    sampling = r.responses
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty) == (1.0, 0.9, 50, 1.05)
    assert (r.reward.policy, r.reward.kl_beta, r.train.learning_rate) == ("paper", 0.1, 1e-6)
    assert [phase.objective for phase in r.train.phases] == ["joint"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_shipped_recipe_is_valid_and_plannable(path: Path) -> None:
    shown = "\n".join(outline.lines(load(path), path))
    assert "phase 1" in shown and "mask 0.00" in shown


def test_there_are_recipes_for_the_demo_phones_and_the_paper() -> None:
    names = {path.stem for path in RECIPES}
    assert {"demo", "mobile"} <= names and any(name.startswith("paper-") for name in names)


def test_overrides_reach_any_value(recipe) -> None:
    r = recipe(GOOD, "reward.kl_beta=0.05", "train.phases.0.steps=20", "data.labels=600", "teachers.0=org/other")
    assert (r.reward.kl_beta, r.train.phases[0].steps, r.data.labels) == (0.05, 20, 600)
    assert r.teachers == ["org/other"]


def test_resolved_recipe_reads_back_equal(recipe, tmp_path: Path) -> None:
    first = recipe(GOOD, "train.learning_rate=1e-4")
    (tmp_path / "again.yaml").write_text(dump(first))
    assert load(tmp_path / "again.yaml") == first


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        (GOOD.replace("r_max", "r_maks"), (), "r.yaml, line 6: mask.r_maks is not a known key; did you mean r_max?"),
        (GOOD.replace("0.2", "much"), (), "line 6: mask.r_max is 'much': input should be a valid number"),
        (GOOD.replace("0.2", "1.5"), (), "line 6: mask.r_max is 1.5: input should be less than 1"),
        (GOOD.replace("0.2", "0.33"), (), "mask.r_max (0.33) must be a whole multiple of mask.step (0.05)"),
        (GOOD.replace("teachers: [org/large]\n", ""), (), "line 1: teachers is missing"),
        (GOOD + "mask: {}\n", (), "line 7: mask is given twice"),
        (GOOD + "x: [\n", (), "line 8: not valid YAML"),
        ("", (), "a recipe is a mapping"),
        (GOOD, ("reward.policy=papr",), "override 'reward.policy=papr': reward.policy is 'papr'"),
        (GOOD, ("data.train.splt=x",), "did you mean split?"),
        (GOOD, ("train.phases.0.stps=5",), "did you mean steps?"),
        (GOOD, ("train.phases.3.steps=5",), "3 is no position in a list of 1"),
        (GOOD, ("nonsense",), "expected key=value"),
        (GOOD, ("train.phases.0.steps=2",), "leaves one of the 5 mask stages"),
        (GOOD, ("responses.student=1", "responses.teacher=0"), "must be 2 or more, not 1"),
        (GOOD, ("quantize.schemes=[auto]", "quantize.budget=4 apples"), "budget '4 apples' is no size; write bytes"),
        (GOOD, ("quantize.budget=92MB",), "quantize.budget: a budget is spent by the scheme auto; fp32 takes"),
        (GOOD, ("reward.accuracy=false", "reward.distillation=false"), "are both off"),
        (GOOD, ("train.phases.0.objective=labels", "data.labels=0"), "data.labels keeps none"),
        (GOOD + "quantize: {schemes: [int5]}\n", (), "line 7: quantize.schemes.0 is 'int5'; did you mean int8?"),
        (GOOD, ("quantize.qat.scheme=int44",), "quantize.qat.scheme is 'int44'; did you mean int4?"),
        (GOOD, ("export.targets=[onx]",), "override 'export.targets=[onx]': export.targets.0 is 'onx'; did you mean"),
        (GOOD, ("reward.metric=oracle",), "reward.metric is 'oracle'; known: anls, exact_match"),
        (GOOD, ("reward.metric=judg",), "reward.metric is 'judg'; did you mean judge?"),
        (GOOD, ("reward.metric=judge",), "reward.judge names none; give reward.judge.model"),
        (GOOD, ("train.save_every=15",), "train.save_every (15) must be a multiple of train.log_every (10)"),
    ],
)
def test_each_mistake_is_one_sentence(recipe, text: str, overrides: tuple[str, ...], expected: str) -> None:
    with pytest.raises(UserError) as error:
        recipe(text, *overrides)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_checkpoints_are_folders_beside_the_recipe_or_hub_ids(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = tmp_path / "r.yaml"
    assert checkpoint("./model", path) == str(tmp_path / "model")
    assert checkpoint("org/model", path) == "org/model"
    with pytest.raises(UserError, match="there is no checkpoint folder"):
        checkpoint("./missing", path)


def test_every_field_is_described() -> None:
    schema = Recipe.model_json_schema()
    for name, section in {"Recipe": schema, **schema["$defs"]}.items():
        for field, spec in section.get("properties", {}).items():
            reference = "$ref" in spec
            assert reference or spec.get("description"), f"{name}.{field} has no description"
