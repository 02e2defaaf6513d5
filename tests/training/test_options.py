"""What `train` offers beside plain training: adapters, frozen parts, bf16, checkpointing of activations, trackers."""

import shutil
from pathlib import Path

import pytest
import torch

from masters_edge.common.errors import UserError
from masters_edge.distill import distill
from masters_edge.families import load_model
from masters_edge.recipe import load
from masters_edge.training import setup
from tests.training import runs

SHORT = ["train.phases.0.steps=5", "data.held_out=0"]
LORA = [*SHORT, "train.lora={rank: 4, alpha: 8}"]


@pytest.fixture
def home(tiny_recipe: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tiny_recipe.parent)
    return tiny_recipe.parent


def test_adapters_alone_learn_and_are_merged(home: Path, tiny_recipe: Path) -> None:
    run = distill(tiny_recipe, [*LORA, "train.freeze=['model.vision_model.*']"])
    checkpoint = run.folder / "phase-0-joint/checkpoints/checkpoint-5"
    assert (checkpoint / "adapter_model.safetensors").exists() and not (checkpoint / "model.safetensors").exists()
    after, before = runs.weights(run.student), runs.weights(home / "student")
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed and all("text_model.layers" in name or "connector" in name for name in changed), changed
    assert all(torch.linalg.matrix_rank(after[n] - before[n], rtol=1e-3) <= 4 for n in changed)  # low-rank updates
    assert load_model(str(run.student)).config.model_type == "smolvlm"
    first, *_, last = [line for line in runs.metrics(run.folder) if "loss" in line]
    assert first["kl_reference"] < 1e-6 < last["kl_reference"]  # the paper's term: away from the untouched student


@pytest.mark.wide
def test_a_resumed_run_with_adapters_ends_with_the_same_student(home: Path, tiny_recipe: Path) -> None:
    dropout = [*SHORT, "train.lora={rank: 4, alpha: 8, dropout: 0.1}"]
    whole = distill(tiny_recipe, [*dropout, "run_dir=whole"])
    shutil.copytree("whole", "torn")
    shutil.rmtree("torn/student")
    Path("torn/finished.json").unlink()
    shutil.rmtree("torn/phase-0-joint/checkpoints/checkpoint-5")  # 4 is whole
    torn = distill(tiny_recipe, [*dropout, "run_dir=torn"])
    a, b = runs.weights(whole.student), runs.weights(torn.student)
    assert all(torch.equal(a[name], b[name]) for name in a)
    drop = lambda lines: [{k: v for k, v in line.items() if k != "seconds"} for line in lines]  # noqa: E731
    assert drop(runs.metrics(whole.folder)) == drop(runs.metrics(torn.folder))


@pytest.mark.wide
def test_the_reference_is_the_student_without_its_adapters(home: Path, tiny_recipe: Path) -> None:
    """A KL to a copy of the untouched student is the same number."""
    from masters_edge.training.trainer import PhaseTrainer

    told: list[float] = []
    plain = load_model("student").float()
    compute = PhaseTrainer._without_adapters

    def both(self, student, base, inputs):
        adapted = compute(self, student, base, inputs)
        copy = self._frozen(plain, self.family, inputs["student"])
        part = slice(0, 3)
        told.append(float((adapted(part) - copy(part)).abs().max()))
        return adapted

    PhaseTrainer._without_adapters = both
    try:
        distill(tiny_recipe, LORA)
    finally:
        PhaseTrainer._without_adapters = compute
    assert len(told) == 5 and max(told) < 1e-5


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.lora={targets: [nothing_like_it]}", "train.lora.targets"),
        ("train.freeze=['nothing.*']", "train.freeze: no parameter"),
        ("train.freeze=['*']", "leaves nothing that learns"),
        ("train.trackers=[tensorbored]", "is no tracker"),
        ("train.trackers=[neptune]", "neptune is not installed"),
        ("train.liger=true", "train.liger"),
    ],
)
def test_refused_before_anything_is_generated(home: Path, tiny_recipe: Path, override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        distill(tiny_recipe, [override])
    assert "\n" not in str(caught.value)
    assert not Path("runs").exists()


@pytest.mark.wide
def test_bf16_trains(home: Path, tiny_recipe: Path) -> None:
    run = distill(tiny_recipe, [*SHORT, "train.precision=bf16", "train.trackers=[none]"])
    exact = distill(tiny_recipe, [*SHORT, "train.trackers=[]", "run_dir=exact"])
    assert not (run.folder / "tensorboard").exists() and not (exact.folder / "tensorboard").exists()
    a, b = (runs.metrics(r.folder) for r in (run, exact))
    assert a[-1]["jsd"] != b[-1]["jsd"] and a[-1]["jsd"] == pytest.approx(b[-1]["jsd"], rel=0.05)
    saved = runs.weights(run.student)
    assert all(value.dtype == torch.float32 for value in saved.values())
    before = runs.weights(home / "student")
    moved = torch.cat([(saved[n] - before[n]).flatten() for n in saved])
    wanted = torch.cat([(w - before[n]).flatten() for n, w in runs.weights(exact.student).items()])
    assert torch.cosine_similarity(moved, wanted, dim=0) > 0.9


@pytest.mark.wide
def test_activations_computed_twice_change_nothing(home: Path, tiny_recipe: Path) -> None:
    plain = distill(tiny_recipe, [*SHORT, "run_dir=plain"])
    again = distill(tiny_recipe, [*SHORT, "train.gradient_checkpointing=true", "run_dir=again"])
    a, b = runs.weights(plain.student), runs.weights(again.student)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_activation_checkpointing_is_on(home: Path, tiny_recipe: Path) -> None:
    recipe = load(tiny_recipe, ["train.gradient_checkpointing=true"])
    assert getattr(setup.arguments(recipe, recipe.train.phases[0], home / "r/p/c"), setup._CHECKPOINTING)


@pytest.mark.wide
def test_every_kind_of_measurement_reaches_a_tracker(home: Path, tiny_recipe: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = distill(tiny_recipe, ["train.phases.0.steps=5", "train.eval_every=5"])
    events = EventAccumulator(str(next((run.folder / "tensorboard").rglob("events.*")).parent))
    events.Reload()
    tags = events.Tags()["scalars"]
    for name in ("loss", "jsd", "reward", "eval_accuracy", "mask_ratio", "kl_reference"):
        assert any(tag.endswith(name) or tag.endswith(name.removeprefix("eval_")) for tag in tags), (name, tags)
    written = {line["step"]: line["jsd"] for line in runs.metrics(run.folder) if "jsd" in line}
    seen = {event.step: event.value for event in events.Scalars("train/jsd")}
    assert seen == pytest.approx(written)
