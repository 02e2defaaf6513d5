"""Recipes that no recipe is: each ends in one sentence with its line or override, quickly, whatever stands in it."""

from pathlib import Path

import pytest

from masters_edge import Recipe
from masters_edge.common.errors import UserError
from masters_edge.recipe import load

GOOD = {
    "student": "org/small",
    "teachers": "[org/large]",
    "data": "{train: {source: easy-vqa, split: train}, test: {source: easy-vqa, split: test}}",
}
REPEATED = "".join(f"x{n}: &x{n} [{', '.join(['a' if n == 0 else f'*x{n - 1}'] * 9)}]\n" for n in range(10))

# What is added to a good recipe (a key of its own takes the good one's place), and what the sentence holds.
FILES = [
    ("student: !!int x", "line 3: student is 'x', which is no int; mend it, or put it in quotes"),
    ("student: !!bool x", "student is 'x', which is no bool"),
    ("student: !!float x", "student is 'x', which is no float"),
    ("student: !!timestamp x", "student is 'x', which is no timestamp"),
    ('student: !!int ""', "student is '', which is no int"),
    ("seed: 2024-13-01", "line 4: seed is '2024-13-01', which is no timestamp"),
    ("seed: 2024-12-01", "line 4: seed is datetime.date(2024, 12, 1): input should be a valid integer"),
    (f"seed: {'9' * 5000}", "seed is '9999999999999999999999999999999999999999'..., which is no int"),
    ("seed: yes", "line 4: seed is True: `true` and `false` are no value of this key"),
    ("train: {lora: {rank: on}}", "train.lora.rank is True: `true` and `false`"),
    ("run_dir: !!python/object:os.system x", "line 4: not valid YAML (could not determine a constructor"),
    ("run_dir: !!binary x", "line 4: not valid YAML (failed to decode base64 data"),
    ("run_dir: !!set {[a]: b}", "line 4: a list or a mapping stands where a key is expected"),
    ('run_dir: "\\ud800"', "run_dir is '\\ud800': text must hold neither a zero byte nor a lone surrogate"),
    ('student: "./a\\0b"', "student is './a\\x00b': text must hold neither"),
    ('responses: {teacher_engine: {url: u, model: m, body: {a: ["\\0"]}}}', "text must hold neither"),
    ("mask: &m {step: *m}", "line 4: an alias (*) stands inside of what it repeats"),
    ("mask: &m {<<: *m}", "line 4: an alias (*) stands inside of what it repeats"),
    (REPEATED.rstrip(), "more than 10,000 entries, aliases (*) written out"),
    ("train: " + "[" * 3000, "nested too deeply for a recipe"),
    ("? [a]\n: b", "line 4: a list or a mapping stands where a key is expected"),
    ("1: x", "line 4: the key '1' is no text"),
    ("null: x", "line 4: the key 'null' is no text"),
    ("on: x", "line 4: the key 'on' is no text"),
    ("x: &a b\nx: c", "line 5: x is given twice"),
    ("a: b\n---\nc: d", "line 5: not valid YAML (but found another document)"),
    ("mask: {stage_lengths: [1, 1, 1, 1, .inf]}", "mask.stage_lengths.4 is inf: input should be a finite number"),
    ("# " + "x" * (1 << 20), "is longer than 1,048,576 characters"),
]

OVERRIDES = [
    ("mask.step=1e-9", "mask.step is '1e-9': input should be greater than or equal to 0.001"),
    ("mask.r_max=1e-12", "mask.r_max (1e-12) must be a whole multiple of mask.step (0.05)"),
    ("seed=4294967296", "seed is 4294967296: input should be less than or equal to 4294967295"),
    ("seed=20241130120000", "less than or equal to 4294967295"),
    ("seed=2024-13-01", "override 'seed=2024-13-01': the value is '2024-13-01', which is no timestamp"),
    (f"seed={'9' * 5000}", "override 'seed=99999"),
    ("train.threads=0", "train.threads is 0: input should be greater than or equal to 1"),
    ("bench.threads=0", "bench.threads is 0: input should be greater than or equal to 1"),
    ("train.lora.rank=1000000000", "train.lora.rank is 1000000000: input should be less than or equal to 4096"),
    ("train.lora.rank=1e9", "train.lora.rank is '1e9': input should be a valid integer"),
    ("reward.kl_beta=.inf", "reward.kl_beta is inf: input should be a finite number"),
    ("reward.kl_beta=.nan", "reward.kl_beta is nan: input should be a finite number"),
    ("train.learning_rate=1e400", "train.learning_rate is '1e400': input should be a finite number"),
    ("train.phases.0.steps=1000000000000000000", "input should be less than or equal to 10000000"),
    ("train={questions_per_step: 1000, phases: [{steps: 9000000}]}", "are 9,000,000,000 visits; a phase has"),
    ("train.phases.²=3", "'²' is no position in a list of 1"),
    (f"train.phases.{'9' * 5000}=1", "is no position in a list of 1"),
    ("train.phases.0.0=3", "train.phases.0.0 is not a known key; known here: objective, steps"),
    ("data.labels=true", "data.labels is True: `true` and `false` are no value of this key"),
    ("student=[1", "override 'student=[1': not valid YAML ("),
    (
        "responses.student_engine={url: u, model: m, concurrency: 1000000}",
        "responses.student_engine.concurrency is 1000000: input should be less than or equal to 1024",
    ),
    ("responses={student: 0, teacher: 0}", "responses.student and responses.teacher are both 0"),
]


def written(folder: Path, added: str = "") -> Path:
    lines = [f"{key}: {value}" for key, value in GOOD.items() if not added.startswith(f"{key}:")]
    path = folder / "r.yaml"
    path.write_text("\n".join([*lines, added]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("added", "expected"), FILES, ids=lambda text: text[:30])
def test_files(tmp_path: Path, added: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load(written(tmp_path, added))
    said = str(caught.value)
    assert expected in said and "\n" not in said and "r.yaml" in said and len(said) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(("override", "expected"), OVERRIDES, ids=lambda text: text[:30])
def test_overrides(tmp_path: Path, override: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load(written(tmp_path), [override])
    said = str(caught.value)
    assert expected in said and "\n" not in said and len(said) < 400


def test_labels_phases_see_responses_times_the_questions(tmp_path: Path) -> None:
    many = ["train.phases.0.objective=labels", "train.phases.0.steps=10000000", "train.questions_per_step=100"]
    assert load(written(tmp_path), [*many, "responses.teacher=0", "responses.student=1"])
    with pytest.raises(UserError, match="8,000,000,000 visits"):
        load(written(tmp_path), many)
    with pytest.raises(UserError, match="are both 0"):
        load(written(tmp_path), [*many, "responses.teacher=0", "responses.student=0"])


def test_an_alias_repeats_a_value_and_an_override_changes_one_of_the_two(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("student: a\nteachers: [b]\ndata: {train: &d {source: one}, test: *d}\n")
    recipe = load(path, ["data.test.source=two"])
    assert recipe.data.test is not None and (recipe.data.train.source, recipe.data.test.source) == ("one", "two")


def test_a_home_folder_that_is_not_known_is_a_name(tmp_path: Path) -> None:
    from masters_edge.recipe import checkpoint

    (tmp_path / "~nobody-here").mkdir()
    assert checkpoint("~nobody-here", tmp_path / "r.yaml") == str(tmp_path / "~nobody-here")
    with pytest.raises(UserError, match="there is no checkpoint folder"):
        checkpoint("~somebody-else", tmp_path / "r.yaml")


def test_every_number_is_bounded() -> None:
    """No count, length or weight of the schema may be as large as somebody types it."""
    schema = Recipe.model_json_schema()

    def numbers(spec: dict, at: str):
        if spec.get("type") in ("integer", "number"):
            yield at, spec
        for inner in [*spec.get("anyOf", ()), *([spec["items"]] if isinstance(spec.get("items"), dict) else [])]:
            yield from numbers(inner, at)

    found = [
        one
        for name, section in {"Recipe": schema, **schema["$defs"]}.items()
        for field, spec in section.get("properties", {}).items()
        for one in numbers(spec, f"{name}.{field}")
    ]
    assert len(found) > 50
    for at, spec in found:
        assert {"maximum", "exclusiveMaximum"} & set(spec), f"{at} has no upper bound"
        assert {"minimum", "exclusiveMinimum"} & set(spec), f"{at} has no lower bound"
