"""The table and the plot from what was found: numbers by hand, and what is missing is said."""

import json
from pathlib import Path

import pytest
from PIL import Image

from masters_edge.ablate import plot, table
from masters_edge.ablate.arms import Arm
from masters_edge.ablate.experiments import Entry, Experiment
from masters_edge.ablate.running import Outcomes
from masters_edge.ablate.summary import summarize
from masters_edge.common.errors import UserError
from masters_edge.recipe import load

ROOT = Path(__file__).parents[2]
FACTS = {"versions": {"torch": "2"}, "machine": {"cpu": "a_cpu"}, "recipe_sha256": "0"}


def result(accuracy: float, sha: str = "q") -> dict:
    test = {"source": "easy-vqa test", "metric": "exact_match", "asked": 1000, "sha256": sha, "accuracy": accuracy}
    return {"test": test, "training_seconds": 20.0, "seconds": 60.0, "labelled": {"asked": 600, "accuracy": 97.0}}


def found(**changed: dict) -> dict:
    entries = [
        Entry(Arm("untouched", "components", trains=False), "untouched"),
        Entry(Arm("labels only", "components", (), ("untouched",)), "labels-only", steps=500, sequences=128),
        Entry(Arm("naive JSD", "components", (), ("labels only",)), "naive", steps=500, sequences=128),
        Entry(Arm("r_max 0.15", "masks"), refused="mask.r_max is <too> large"),
        Entry(Arm("r_max 0.00", "masks"), "whole", steps=500, sequences=128),
    ]
    outcomes = Outcomes({"untouched-0": result(47.0)}, {"whole-1": "its process was ended by SIGKILL"})
    for seed, (labels, naive) in enumerate([(75.0, 85.0), (77.0, 86.0), (76.0, 86.5)]):
        outcomes.found[f"labels-only-{seed}"] = result(labels)
        outcomes.found[f"naive-{seed}"] = result(naive)
    outcomes.found["whole-0"] = result(85.0)
    outcomes.found |= changed
    experiments = [Experiment("untouched", 0, "untouched student", "d", source="./student")]
    path = ROOT / "recipes/demo.yaml"
    return summarize(path, load(path), "masters-edge ablate it", entries, experiments, (0, 1, 2), outcomes, FACTS)


def test_numbers_are_those_worked_out_by_hand() -> None:
    text = table.render(found())
    labels = "| labels only | 500 | 128 | 76.0 | 73.5 to 78.5 | 75.0, 77.0, 76.0 |"
    assert f"{labels} +29.0 (+26.5 to +31.5), better against untouched | 20 of 60 |" in text
    # Differences 10, 9, 10.5: mean 9.83, s 0.764, t(2) 4.303, so 1.90 to each side.
    assert "| +9.8 (+7.9 to +11.7), better against labels only |" in text
    assert "| untouched | – | – | 47.0 | – | – | – | – |" in text.replace("20 of 60 |\n| labels", "– |\n| labels")


def test_what_is_missing_is_said() -> None:
    text = table.render(found())
    assert "- r\\_max 0.15 is refused: mask.r\\_max is &lt;too&gt; large" in text
    assert "- r\\_max 0.00, seed 1, failed: its process was ended by SIGKILL" in text
    assert "| 85.0, –, – |" in text
    assert "Preliminary: 1 trainings are still to come." in text
    assert "Of the 2 differences here, 0.1 would be expected" in text
    assert "| untouched student | 47.0 | 97.0 of 600 | 0 |" in text
    assert "masters-edge ablate it" in text and "a\\_cpu" in text


def test_the_json_alone_makes_the_same_table() -> None:
    values = found()
    assert table.render(json.loads(json.dumps(values))) == table.render(values)


def test_arms_asked_other_questions_are_not_compared() -> None:
    with pytest.raises(UserError, match="not asked the same test questions"):
        found(**{"naive-2": result(86.5, sha="other")})


def test_a_plot_that_opens(tmp_path: Path) -> None:
    plot.draw(found(), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.width == 1800 and image.height > 500
        colours = {colour for _, colour in image.convert("RGB").getcolors(maxcolors=1 << 24)}
    assert (0x00, 0x9E, 0x73) in colours  # two rows are better
    assert (0xD5, 0x5E, 0x00) not in colours  # and none worse
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_untouched_student_doesn_t_stretch_the_scale() -> None:
    panel = plot.Panel("", found()["groups"][0]["arms"])
    low, high = panel.range
    assert 65 < low < 75 and 86.5 < high < 95
