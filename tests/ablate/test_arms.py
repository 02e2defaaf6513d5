"""Arms are fair (equal steps, equal sequences), valid, and trained once where they come to the same."""

from pathlib import Path

import pytest

from masters_edge import recipe as recipes
from masters_edge.ablate import arms as known
from masters_edge.ablate import experiments
from masters_edge.ablate.arms import Choices
from masters_edge.recipe.schedule import group_size
from masters_edge.run import outline

ROOT = Path(__file__).parents[2]
CHOICES = Choices(chain=("/models/middle",), damaged="/models/damaged", damage=0.4, strong="/models/strong")
FOUR_AND_FOUR = ("responses.split=fixed", "responses.student=4", "responses.teacher=4")


@pytest.mark.parametrize("name", ["demo.yaml", "mobile.yaml"])
def test_every_arm_has_the_steps_and_sequences_of_the_recipe(name: str) -> None:
    path = ROOT / "recipes" / name
    own = recipes.load(path, FOUR_AND_FOUR)
    sequences = own.train.questions_per_step * group_size(own)
    found = known.arms(own, CHOICES)
    assert {arm.group for arm in found} == set(known.GROUPS)
    assert len({(arm.group, arm.title) for arm in found}) == len(found)
    for arm in (arm for arm in found if arm.trains):
        recipe = recipes.load(path, [*FOUR_AND_FOUR, *arm.overrides])
        phases = list(outline.phases(recipe))
        assert sum(phase.phase.steps for phase in phases) == sum(phase.steps for phase in own.train.phases), arm
        assert {phase.sequences_per_step for phase in phases} == {sequences}, arm
        others = {other.title for other in found if other.group == arm.group}
        assert set(arm.against) <= others - {arm.title}


def recipe_of(arm: known.Arm) -> recipes.Recipe:
    return recipes.load(ROOT / "recipes/demo.yaml", [*FOUR_AND_FOUR, *arm.overrides])


def demo(group: str) -> dict[str, recipes.Recipe]:
    recipe = recipes.load(ROOT / "recipes/demo.yaml", FOUR_AND_FOUR)
    return {arm.title: recipe_of(arm) for arm in known.arms(recipe, CHOICES, [group]) if arm.trains}


def test_the_ladder_changes_one_thing_at_a_rung() -> None:
    rungs = demo("components")
    assert list(rungs) == ["labels only", "naive JSD", "+ multi-response", "+ mask-progressive", "+ reward"]
    shown = [
        (r.train.phases[0].objective, r.mask.r_max > 0, r.responses.student, r.responses.teacher)
        for r in rungs.values()
    ]
    assert shown[0][0] == "labels"
    assert shown[1:3] == [("distill", False, 0, 1), ("distill", False, 4, 4)]
    assert shown[3:] == [("distill", True, 4, 4), ("joint", True, 4, 4)]
    against = {arm.name: arm.against for arm in known.arms(recipe_of(known.Arm("", "")), groups=["components"])}
    assert against["+ reward"] == ("+ mask-progressive", "naive JSD")
    assert against["labels only"] == ("untouched",)


def test_the_budget_is_split_by_the_recipe_s_own_numbers() -> None:
    found = [(r.train.questions_per_step, r.responses.student, r.responses.teacher) for r in demo("split").values()]
    assert found == [(16, 4, 4), (32, 2, 2), (64, 1, 1), (128, 0, 1), (16, 4, 4)]
    assert demo("split")["split auto"].responses.split == "auto"
    odd = recipes.load(ROOT / "recipes/demo.yaml", ["responses.student=2", "responses.teacher=3"])
    names = [arm.name for arm in known.arms(odd, groups=["split"])]
    assert names == ["16 questions x 5 responses (2 + 3)", "80 questions x 1 response (the teacher's)", "split auto"]


def test_rewards_and_policies_say_all_that_they_rest_on() -> None:
    rewards = {title: r.reward for title, r in demo("rewards").items()}
    assert (rewards["R_acc"].accuracy, rewards["R_acc"].distillation) == (True, False)
    assert (rewards["R_distill"].accuracy, rewards["R_distill"].distillation) == (False, True)
    assert not rewards["R_acc + R_distill, without min-max"].min_max
    assert rewards["R_acc + R_distill, R_distill live"].live
    policies = demo("policies")
    paper = policies["paper, weight 1, beta 0.1"].reward
    assert (paper.policy, paper.weight, paper.kl_beta) == ("paper", 1.0, 0.1)
    assert policies["truncated importance weights, weight 0.3"].reward.policy == "truncated_is"
    assert policies["no reward"].train.phases[0].objective == "distill"


def test_conditions_repeat_the_same_arms_under_something_else() -> None:
    found = demo("conditions")
    assert found["damaged teacher (mask 0.4): + reward, paper"].teachers == ["/models/damaged"]
    assert found["strong student: multi-response"].student == "/models/strong"
    assert found["100 labels: labels only"].data.labels == 100
    assert found["every label: + reward, positive"].data.labels == "all"
    names = {title.partition(": ")[0] for title in found}
    assert names == {
        "as the recipe says",
        "damaged teacher (mask 0.4)",
        "damaged teacher (mask 0.4), every label",
        "strong student",
        "100 labels",
        "every label",
    }
    alone = known.arms(recipe_of(known.Arm("", "")), Choices(), ["chain", "conditions"])
    assert not [arm for arm in alone if arm.group == "chain" or arm.condition in ("strong student", "damaged teacher")]


def planned(*groups: str, seeds: tuple[int, ...] = (0, 1), out: Path = Path("/out"), choices: Choices = CHOICES):
    path = ROOT / "recipes/demo.yaml"
    recipe = recipes.load(path, FOUR_AND_FOUR)
    every = experiments.entries(path, FOUR_AND_FOUR, known.arms(recipe, choices))
    wanted = [entry for entry in every if entry.arm.group in (groups or known.GROUPS)]
    return wanted, experiments.planned(FOUR_AND_FOUR, every, wanted, seeds, out)


def test_arms_that_come_to_the_same_are_trained_once() -> None:
    entries, found = planned()
    slugs = {entry.arm.title: entry.slug for entry in entries}
    assert slugs["r_max 0.00"] == slugs["+ multi-response"] == slugs["16 questions x 8 responses (4 + 4)"]
    assert slugs["naive JSD"] == slugs["128 questions x 1 response (the teacher's)"]
    assert slugs["no reward"] == slugs["+ mask-progressive"] == slugs["largest teacher alone, distillation"]
    # Distillation asks for no label, so how many there are changes nothing; a reward does.
    assert slugs["100 labels: multi-response"] == slugs["every label: multi-response"] == slugs["+ multi-response"]
    assert len({slugs["100 labels: + reward, paper"], slugs["every label: + reward, paper"]}) == 2
    assert slugs["100 labels: labels only"] != slugs["labels only"]
    names = [one.name for one in found]
    assert len(set(names)) == len(names) and {one.digest for one in found}.__len__() == len(found)
    assert [one.seed for one in found] == sorted(one.seed for one in found)


def test_a_job_is_the_same_whatever_is_run_beside_it() -> None:
    alone = {one.name: one for one in planned("masks")[1]}
    together = {one.name: one for one in planned()[1]}
    assert alone and all(together[name] == one for name, one in alone.items())


def test_arms_are_chosen_by_name_with_what_they_are_compared_with() -> None:
    every = known.arms(recipe_of(known.Arm("", "")), CHOICES)
    named = [arm.title for arm in known.chosen(every, ["policies", "conditions"], ["paper", "100 labels: labels"])]
    paper = ["1, beta 0.1", "1, beta 0", "0.1, beta 0.1"]
    assert named[:4] == [known.NO_REWARD, *(f"paper, weight {of}" for of in paper)]
    assert all(arm.endswith((": multi-response", ": + reward, paper", ": labels only")) for arm in named[4:])
    assert {"damaged teacher (mask 0.4): multi-response", "100 labels: labels only"} < set(named)
    assert known.chosen(every, [], []) == every


def test_the_teacher_labels_questions_only_where_a_reward_looks() -> None:
    found = {one.slug: one for one in planned()[1]}
    unasked = "reward.unlabelled=none"
    assert unasked in found["naive-jsd"].overrides and unasked in found["r-max-0-05"].overrides
    assert unasked not in found["mask-progressive"].overrides  # shares its responses with the rewarded arms
    assert all(unasked not in one.overrides for one in found.values() if one.rewarded)


def test_a_student_that_an_arm_leaves_is_waited_for() -> None:
    _, found = planned(choices=Choices(strong="/out/arms/multi-response-0/student"))
    waiting = [one for one in found if "strong student" in one.title]
    assert waiting and all(one.needs == "multi-response-0" for one in waiting)
    assert all(one.needs is None for one in found if one not in waiting)


def test_a_refused_arm_is_said() -> None:
    path = ROOT / "recipes/demo.yaml"
    short = (*FOUR_AND_FOUR, "train.phases.0.steps=3")
    entries = experiments.entries(path, short, known.arms(recipes.load(path, short), groups=["masks"]))
    refused = {entry.arm.name: entry.refused for entry in entries}
    assert refused["r_max 0.10"] is None and "leaves one of the 4 mask stages" in refused["r_max 0.15"]
    found = experiments.planned(short, entries, entries, [0], Path("/out"))
    assert {one.title for one in found} == {"r_max 0.00", "r_max 0.05", "r_max 0.10"}
