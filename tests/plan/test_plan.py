"""The command as a person meets it, what doesn't fit and what would, and time from measured rates."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from masters_edge import cli
from masters_edge.common.errors import UserError
from masters_edge.distill import distill
from masters_edge.plan import PlanOptions, memory, plan, rates
from masters_edge.plan.tokens import phase_tokens
from masters_edge.recipe import load

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "recipes/paper-qwen3-vl-8b.yaml"
GIB = 1 << 30


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "masters_edge", "plan", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=None,
        check=False,
    )


@pytest.mark.wide
def test_a_screen_of_80_columns_and_json(tiny_recipe: Path) -> None:
    home = tiny_recipe.parent
    done = command("tiny.yaml", "--json", "plan.json", cwd=home)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    for said in (
        "Parameters",
        "Memory of one process",
        "Tokens, phase 1: joint",
        "Disk",
        "none without a measured rate",
    ):
        assert said in done.stdout
    written = json.loads((home / "plan.json").read_text())
    assert written["models"][0]["parameters"]["total"] == 197_536
    assert written["disk_bytes"] > 0 and written["phases"][0]["seconds"] == {} and written["warnings"] == []
    assert not (home / "runs").exists()


def test_mistakes_are_one_sentence(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    home = tiny_recipe.parent
    monkeypatch.chdir(home)
    (home / "rate.json").write_text('{"device": "x", "tokens_per_second": {"train": 0}}')
    for arguments, sentence in {
        ("--shard", "fsdp"): "expected one of none, fsdp2, zero3",
        ("--shard", "fsdp2"): "say how many with --gpus",
        ("--gpu-memory", "much"): "expected a size such as 80GiB",
        ("--config-of", "x"): "expected NAME=PATH",
        ("--config-of", "x=y"): "the recipe has no such model; it has ./student, ./teacher",
        ("--rate", "none.json"): "holds no measured rates",
        ("--rate", "rate.json"): "must hold numbers above 0",
        ("--rate-out", "r.json"): "add --measure",
        ("--gpus", "3"): "can't be dealt out to 3 processes",
        ("teachers=[some/model]",): "can't be had",
        ("--prompt-tokens", "2"): "is less than the 52 tokens of a picture",
    }.items():
        monkeypatch.setattr(sys, "argv", ["masters-edge", "plan", "tiny.yaml", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr().err
        assert end.value.code == 2 and sentence in " ".join(said.split()), (arguments, said)


def test_configs_alone_are_enough(tiny_recipe: Path) -> None:
    home = tiny_recipe.parent
    for name in ("student", "teacher"):
        config = (home / name / "config.json").read_text()
        (home / name).unlink()
        (home / f"{name}.json").write_text(config)
    asked = PlanOptions(configs={f"./{name}": str(home / f"{name}.json") for name in ("student", "teacher")})
    made = plan(tiny_recipe, [], asked)
    assert made.student.total == 197_536 and any("assumed: a picture" in sentence for sentence in made.assumed)


@pytest.mark.wide
def test_paper_recipe_offline_from_the_shapes_that_come_along() -> None:
    """8 x 80 GiB: neither the responses nor a step of 32 questions fits; what is proposed does."""
    one = ["train.questions_per_device=1", "train.gradient_checkpointing=true"]
    cut = PlanOptions(gpus=8, gpu_bytes=80 * GIB, sharding="fsdp2", prompt_tokens=832)
    made = plan(PAPER, one, cut)
    assert any("come with masters-edge" in s.origin for s in (made.student, *made.teachers))
    assert made.responses is not None and made.responses.total > 80 * GIB
    assert made.warnings[0].startswith("responses need") and "masters-edge generate" in made.warnings[0]
    usage = made.phases[0].training
    assert usage.total < 80 * GIB
    assert usage.parts["AdamW"] == 8 * made.student.total // 8  # 8 bytes a parameter over 8 GPUs
    assert usage.parts["teacher weights"] == 2 * made.teachers[0].total // 8
    assert usage.parts.get("values set aside") is None


@pytest.mark.slow
def test_paper_recipe_whole_and_cached() -> None:
    one = ["train.questions_per_device=1", "train.gradient_checkpointing=true"]
    asked = PlanOptions(gpus=8, gpu_bytes=80 * GIB, sharding="fsdp2", prompt_tokens=832)
    whole = plan(PAPER, one, PlanOptions(gpus=8, gpu_bytes=80 * GIB, prompt_tokens=832)).phases[0].training
    assert whole.parts["AdamW"] == 8 * whole.parts["DDP buckets"] // 4 and whole.total > 80 * GIB
    assert whole.parts["values set aside"] > 20 * GIB
    cached = plan(PAPER, [*one, "train.teacher_logits=cached"], asked).phases[0]
    assert "teacher weights" not in cached.training.parts
    # k x (4 + 2) + 4 bytes a token before compression, of 12 million responses of 256 tokens
    stored = cached.tokens.sum("generated_student") + cached.tokens.sum("generated_teacher")
    assert 0.4 * (64 * 6 + 4) * stored < cached.disk.responses < (64 * 6 + 4 + 8 + 4 + 8) * stored


@pytest.mark.wide
def test_what_does_not_fit_names_the_part_and_the_cure(tiny_recipe: Path) -> None:
    made = plan(tiny_recipe)
    usage = made.phases[0].training
    less = plan(tiny_recipe, [], PlanOptions(gpu_bytes=usage.total + memory.LIBRARIES - (1 << 20)))
    (sentence,) = [s for s in less.warnings if s.startswith("phase")]
    assert f"the largest part is {less.phases[0].training.largest}" in sentence
    assert "with train." in sentence and "it takes" in sentence


@pytest.mark.parametrize("objective", ["distill", "reward", "labels"])
@pytest.mark.wide
def test_every_objective_and_adapters_can_be_planned(tiny_recipe: Path, objective: str) -> None:
    overrides = [f"train.phases.0.objective={objective}", "train.lora={rank: 4}", "train.precision=bf16"]
    made = plan(tiny_recipe, overrides)
    parts, counted = made.phases[0].training.parts, made.phases[0].tokens
    assert ("teacher weights" in parts) == (objective == "distill")
    assert "reference weights" not in parts
    assert made.trained_parameters < made.student.total
    assert (counted.sum("asked") == 0) == (objective == "labels")
    assert (counted.sum("trained_reference") > 0) == (objective == "reward")


def test_time_follows_from_the_rates(tiny_recipe: Path) -> None:
    known = {"generate_student": 10.0, "generate_teacher": 20.0, "score": 100.0, "train": 50.0, "evaluate": 2.0}
    file = tiny_recipe.parent / "rates.json"
    rates.Rates("a machine", known).save(file)
    made = plan(tiny_recipe, [], PlanOptions(rate=file))
    counted, seconds = made.phases[0].tokens, made.phases[0].seconds
    assert seconds["generate_student"] == counted.sum("generated_student") / 10
    assert seconds["train"] == counted.sum("trained_student") / 50
    assert seconds["evaluate"] == 3 * 12 / 2
    assert made.seconds == sum(seconds.values())
    twice = rates.seconds(made.rates, counted, 4, 12, processes=2)  # type: ignore[arg-type]
    assert twice["score"] == seconds["score"] / 2


def test_unknown_questions_are_taken_to_come_once(tiny_recipe: Path) -> None:
    recipe = load(tiny_recipe)
    made = plan(tiny_recipe)
    counted = phase_tokens(recipe, 0, recipe.train.phases[0], made.lengths, None)
    assert counted.sum("asked") == counted.sum("visits") == 40


@pytest.mark.wide
def test_a_measured_rate(tiny_recipe: Path) -> None:
    measured = rates.measure(tiny_recipe, [])
    assert set(measured.rates.tokens_per_second) == set(rates.PARTS) - {"train_rounded"}
    assert all(rate > 0 for rate in measured.rates.tokens_per_second.values())
    assert 1 <= measured.response <= 4 and 1 <= measured.distinct <= 8
    with pytest.raises(UserError):
        rates.measure(tiny_recipe, ["student=./nowhere"])


@pytest.mark.slow
def test_time_of_a_real_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The demo's models, 200 steps, on a machine that does nothing else: within 20%."""
    monkeypatch.chdir(tmp_path)
    recipe = ROOT / "recipes/demo.yaml"
    overrides = ["train.phases.0.steps=200", "data.held_out=100", "train.threads=2", "train.trackers=[]"]
    made = plan(recipe, overrides, PlanOptions(measure=True))
    started = time.perf_counter()
    run = distill(recipe, overrides)
    spent = time.perf_counter() - started
    training = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
    expected = made.phases[0].seconds
    print(f"training {expected['train'] + expected['evaluate']:.1f} s, measured {training:.1f} s")
    print(f"all {made.seconds:.1f} s, measured {spent:.1f} s: {expected}, start {made.rates.start_s:.1f} s")
    assert expected["train"] + expected["evaluate"] == pytest.approx(training, rel=0.2)
    assert made.seconds == pytest.approx(spent, rel=0.2)
