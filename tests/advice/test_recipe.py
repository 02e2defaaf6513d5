"""What is advised about recipes and overrides: written so, they are read."""

import sys
from pathlib import Path

import pytest

from masters_edge.common import registry
from masters_edge.recipe import checkpoint, dump, load, shipped
from tests.advice import ROOT, follows, said

GOOD = "student: a/s\nteachers: [a/t]\ndata: {train: {source: easy-vqa, split: train}, labels: all}\n"
Given = tuple[str, tuple[str, ...]]  # a recipe's text, and overrides

# What is said, of what, and what it then is.
MISTAKES: list[tuple[str, Given, tuple[Given, ...]]] = [
    ("see: masters-edge recipes demo", ("- 1\n", ()), ((GOOD, ()),)),
    ("which no recipe is; give another file", (GOOD + "#" * (1 << 20), ()), ((GOOD, ()),)),
    ("did you mean seed?", (GOOD + "sed: 1\n", ()), ((GOOD + "seed: 1\n", ()),)),
    ("is missing; add it", (GOOD.replace("student: a/s\n", ""), ()), ((GOOD, ()),)),
    ("did you mean judge?", (GOOD, ("reward.metric=judg",)), ((GOOD, ("reward.metric=anls",)),)),
    ("put text in quotes", (GOOD, ("run_dir=[a",)), ((GOOD, ("run_dir='[a'",)),)),
    ("not valid YAML (", (GOOD + "run_dir: [a\n", ()), ((GOOD + "run_dir: '[a'\n", ()),)),
    ("write the value out", (GOOD + "seed: &a [*a]\n", ()), ((GOOD + "seed: 1\n", ()),)),
    ("stands where a key is expected", (GOOD + "[1, 2]: 3\n", ()), ((GOOD + "seed: 3\n", ()),)),
    ("is no text; mend or quote it", (GOOD.replace("{train", "{1: 2, train"), ()), ((GOOD, ()),)),
    ("seed is given twice; keep one", (GOOD + "seed: 1\nseed: 2\n", ()), ((GOOD + "seed: 2\n", ()),)),
    ("mend it, or put it in quotes", (GOOD + "run_dir: 2026-99-99\n", ()), ((GOOD + "run_dir: '2026-99-99'\n", ()),)),
    ("expected key=value, such as reward.kl_beta=0.05", (GOOD, ("seed",)), ((GOOD, ("reward.kl_beta=0.05",)),)),
    ("in a list of 1, use 0 to 0", (GOOD, ("teachers.1=a/b",)), ((GOOD, ("teachers.0=a/b",)),)),
    ("see masters-edge schema", (GOOD + "seed: 1\n", ("seed.of=1",)), ((GOOD, ("seed=1",)),)),
    ("override 'seed.of=1': seed is 'dict': input", (GOOD, ("seed.of=1",)), ((GOOD, ("seed=1",)),)),
    ("nested too deeply for a recipe", ("[" * 600, ()), ((GOOD, ()),)),
    ("more than 10,000 entries", (GOOD + f"mask: {{include: [{'a, ' * 10_000}]}}\n", ()), ((GOOD, ()),)),
]


@follows(
    "a recipe is a mapping with student, teachers and data; see: masters-edge recipes demo",
    "which no recipe is; give another file",
    "load.py: <_sentence(_telling(error.errors()), path, lines, origin)>",
    "load.py: {}: {} is {}; {}",
    "load.py: override {}: {}\n",
    "{}not valid YAML ({}){}",
    "{}nested too deeply for a recipe",
    "{}more than {} entries, aliases (*) written out",
    "an alias (*) stands inside of what it repeats; write the value out",
    "a list or a mapping stands where a key is expected",
    "the key {} is no text; mend or quote it",
    "{}{} is given twice; keep one",
    "which is no {}; mend it, or put it in quotes",
    "expected key=value, such as reward.kl_beta=0.05",
    "is no position in a list of {}, use 0 to {}",
    "nothing can be set below {}; see masters-edge schema",
)
@pytest.mark.parametrize(("words", "bad", "good"), MISTAKES, ids=[words for words, _, _ in MISTAKES])
def test_mistakes(tmp_path: Path, words: str, bad: Given, good: tuple[Given, ...]) -> None:
    path = tmp_path / "r.yaml"

    def read(given: Given) -> object:
        path.write_text(given[0])
        return load(path, given[1])

    with said(words):
        read(bad)
    for better in good:
        assert read(better)


@follows(
    "there is no recipe {}; give the path of a YAML file; masters-edge recipes lists some to copy",
    "this masters-edge comes without recipes, as a board's does; install it with: pip install masters-edge",
    "no recipe {} comes with masters-edge; {}",
    "{}: there is no checkpoint folder {} (from {}); mend the path",
    "the recipe {} can't be read ({}); give a UTF-8 text file",
)
def test_a_recipe_that_comes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    with said("masters-edge recipes lists some to copy"):
        load(path)
    with said("did you mean mobile?"):
        shipped.copied("mobil")
    path.write_bytes(b"\xff\xfe")
    with said("give a UTF-8 text file"):
        load(path)
    for one in [one for one in shipped.shipped() if "/" not in one.name]:
        path.write_text(shipped.copied(one.name))
        recipe = load(path)
        path.write_text(dump(recipe))
        assert load(path) == recipe
    with monkeypatch.context() as patched, said("pip install masters-edge"):
        patched.setitem(sys.modules, "masters_edge.recipes", None)
        shipped.shipped()
    assert '"masters_edge.recipes"' in (ROOT / "pyproject.toml").read_text()
    with said("mend the path"):
        checkpoint("./student", path)
    (tmp_path / "student").mkdir()
    assert checkpoint("./student", path) == str(tmp_path / "student")


@follows("registry.py: there is no {} {}; {}")
def test_the_nearest_name() -> None:
    with said("did you mean 'onnx'?"):
        registry.check("onx", "target", ["onnx", "gguf"])
    with said("use one of: onnx, gguf"):
        registry.check("zzz", "target", ["onnx", "gguf"])
    registry.check("onnx", "target", ["onnx", "gguf"])
