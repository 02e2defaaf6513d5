"""Quantization-aware training: the rounded forward is the exported one, and the run around it is as any other."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from torchao.quantization.qat import IntxFakeQuantizeConfig
from torchao.quantization.qat.fake_quantizer import FakeQuantizerBase

from masters_edge.common import registry
from masters_edge.common.errors import UserError
from masters_edge.distill import distill
from masters_edge.export import graphs
from masters_edge.export import student as students
from masters_edge.export.quantize import quantize
from masters_edge.families import load_model
from masters_edge.objective import chunked
from masters_edge.quantization import by_part
from masters_edge.quantization.schemes import SCHEMES
from masters_edge.recipe import load
from masters_edge.run import outline
from masters_edge.training import FakeQuantization, phase, qat, sharded
from tests import tiny
from tests.training import runs

SHORT = ["train.phases.0.steps=6", "data.held_out=0", "train.save_every=2"]
ROUNDED = [*SHORT, "quantize.qat={share: 0.5}"]
FROM = 3  # steps before the weights are rounded
SCHEMES_TRAINED = ["int4", "int8", "int4-g64", "smallest", "balanced"]


@pytest.fixture
def home(tiny_recipe: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tiny_recipe.parent)
    return tiny_recipe.parent


def rounded(model, scheme: str):
    """The model with its layers swapped and switched on."""
    rounding = FakeQuantization(model, by_part.plan(scheme), first=0)
    rounding.on_step_begin(None, type("State", (), {"global_step": 0}), None)
    return model


def logits(student: students.LoadedStudent, model) -> torch.Tensor:
    """Of one picture and question, through the model's own forward pass."""
    seen = copy.copy(student)
    seen.model = model
    reference = graphs.family(student.model_type).Reference
    return torch.from_numpy(reference(seen, tiny.picture(), tiny.TEXTS[2], 1).logits)


@pytest.mark.parametrize("scheme", SCHEMES_TRAINED)
def test_a_rounded_forward_is_the_exported_one(models: Path, scheme: str) -> None:
    """Tied embedding and head, split and shared ones, layers that groups don't fill; head as the loss reads it."""
    student = students.load(models / "student")
    trained = rounded(load_model(str(models / "student")), scheme)
    mine = logits(student, trained)
    assert not torch.equal(mine, logits(student, student.model))
    weights = quantize(student, by_part.plan(scheme))
    assert torch.equal(mine, logits(student, student.model))
    head = qat.head(trained, sharded.head_in_forward(trained))
    assert torch.equal(head.weight, student.model.lm_head.weight) and weights.tensors


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_families_that_export_train_rounded(family: str, tmp_path: Path) -> None:
    tiny.FAMILIES[family](tmp_path)
    model = load_model(str(tmp_path))
    if model.config.model_type not in {t for m in _graph_modules() for t in m.MODEL_TYPES}:
        pytest.skip("no graphs yet")
    student = students.load(tmp_path)
    mine = logits(student, rounded(model, "int4"))
    quantize(student, by_part.plan("int4"))
    assert torch.allclose(mine, logits(student, student.model), atol=1e-6)


def _graph_modules() -> list:
    return [registry.load(graphs, name) for name in registry.names(graphs)]


@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_rounding_is_torchaos_own_but_for_tiny_groups(scheme: str) -> None:
    """Its float16 reciprocal is infinite there: zeros become NaN, the others the ends of the range."""
    found = SCHEMES[scheme]
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    weight[2], weight[3] = 0, weight[3] * (1e-4 if scheme == "int8" else 2e-5)
    rounding = qat.Rounding(found)
    rounding.enabled = True
    config = IntxFakeQuantizeConfig(
        getattr(torch, f"int{found.bits}"),
        group_size=found.group(64),
        is_symmetric=True,
        scale_precision=torch.float16,
    )
    ours, theirs = rounding(weight), FakeQuantizerBase.from_config(config)(weight)
    usual = [0, 1, 4, 5, 6, 7]
    assert torch.equal(ours[usual], theirs[usual])
    assert theirs[2].isnan().all() and not ours[2].any()
    assert (ours[3] - weight[3]).abs().max() < 0.2 * (theirs[3] - weight[3]).abs().max()


def test_the_gradient_passes_straight_through() -> None:
    weight = torch.randn(4, 64, requires_grad=True)
    rounding, factor = qat.Rounding(SCHEMES["int4"]), torch.randn(4, 64)
    rounding.enabled = True
    (rounding(weight) * factor).sum().backward()
    assert torch.equal(weight.grad, factor)


def test_the_heads_gradient_reaches_its_weight_through_the_chunked_loss(models: Path) -> None:
    model = rounded(load_model(str(models / "student")), "int4")
    hidden = torch.randn(5, model.config.text_config.hidden_size)
    head = qat.head(model, sharded.head_in_forward(model))
    loss, _ = chunked.loss(hidden, head, head.weight.shape[0], lambda x, _: (x.square().sum(), {}), entries=400)
    loss.backward()
    expected = 2 * (hidden @ head.weight.T).T @ hidden
    assert torch.allclose(model.lm_head.weight.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.wide
def test_a_run_changes_from_its_step_on_and_saves_an_ordinary_student(home: Path, tiny_recipe: Path) -> None:
    plain = distill(tiny_recipe, [*SHORT, "run_dir=plain"])
    run = distill(tiny_recipe, ROUNDED)
    told = [line["qat"] for line in runs.metrics(run.folder) if "qat" in line]
    assert told == [0.0] * FROM + [1.0] * (6 - FROM)
    same = [
        mine["loss"] == its["loss"]
        for mine, its in zip(runs.metrics(run.folder), runs.metrics(plain.folder))
        if "loss" in mine
    ]
    assert same == [True] * FROM + [False] * (6 - FROM)
    a, b = runs.weights(run.student), runs.weights(plain.student)
    assert {n: (v.shape, v.dtype) for n, v in a.items()} == {n: (v.shape, v.dtype) for n, v in b.items()}
    assert not any(torch.equal(a[name], b[name]) for name in a if "layers" in name and "proj" in name)
    integers = quantize(students.load(run.student), by_part.plan("int4")).tensors
    name = "model.text_model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(a[name], torch.from_numpy(integers[name].dequantize()))  # float32, not rounded


@pytest.mark.wide
def test_the_loss_reads_a_rounded_head(home: Path, tiny_recipe: Path) -> None:
    """No layer's forward does: the loss takes the head's weight and makes the logits itself."""
    plain = distill(tiny_recipe, [*SHORT, "run_dir=plain"])
    run = distill(tiny_recipe, [*SHORT, "quantize.qat={scheme: {scheme: fp32, head: int4}, share: 0.01}"])
    a, b = ([line["loss"] for line in runs.metrics(r.folder) if "loss" in line] for r in (run, plain))
    assert a[:-1] == b[:-1] and a[-1] != b[-1]


@pytest.mark.wide
def test_only_the_last_phase_and_only_the_student(home: Path, tiny_recipe: Path, monkeypatch) -> None:
    swapped: list[tuple[str, int]] = []
    make = phase.build

    def noted(recipe, phase_, *rest, rounded_from, **named):
        if rounded_from is not None:
            swapped.append((phase_.objective, rounded_from))
        return make(recipe, phase_, *rest, rounded_from=rounded_from, **named)

    monkeypatch.setattr(phase, "build", noted)
    frozen = []
    compute = sharded.frozen_head
    monkeypatch.setattr(sharded, "frozen_head", lambda model: frozen.append(model) or compute(model))
    phases = "train.phases=[{objective: distill, steps: 5}, {objective: joint, steps: 6}]"
    distill(tiny_recipe, [*ROUNDED[1:], phases])
    assert swapped == [("joint", 3)]
    assert frozen and not any(isinstance(m, qat.Rounding) for model in frozen for m in model.modules())


def test_a_resumed_run_ends_with_the_same_student(home: Path, tiny_recipe: Path) -> None:
    """Killed before the rounding starts, and within it."""
    whole = distill(tiny_recipe, [*ROUNDED, "run_dir=whole"])
    for kept in (2, 4):
        torn = Path(f"torn-{kept}")
        shutil.copytree("whole", torn)
        shutil.rmtree(torn / "student")
        (torn / "finished.json").unlink()
        for step in range(kept + 1, 7):
            shutil.rmtree(torn / f"phase-0-joint/checkpoints/checkpoint-{step}", ignore_errors=True)
        assert len(list((torn / "phase-0-joint/checkpoints").iterdir())) == (kept == 4)
        again = distill(tiny_recipe, [*ROUNDED, f"run_dir={torn}"])
        a, b = runs.weights(whole.student), runs.weights(again.student)
        assert all(torch.equal(a[name], b[name]) for name in a)
        drop = lambda lines: [{k: v for k, v in line.items() if k != "seconds"} for line in lines]  # noqa: E731
        assert drop(runs.metrics(whole.folder)) == drop(runs.metrics(again.folder))


@pytest.mark.wide
def test_activations_computed_twice_change_nothing(home: Path, tiny_recipe: Path) -> None:
    plain = distill(tiny_recipe, [*ROUNDED, "run_dir=plain"])
    again = distill(tiny_recipe, [*ROUNDED, "train.gradient_checkpointing=true", "run_dir=again"])
    a, b = runs.weights(plain.student), runs.weights(again.student)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.wide
def test_bf16_trains_rounded(home: Path, tiny_recipe: Path) -> None:
    run = distill(tiny_recipe, [*ROUNDED, "train.precision=bf16"])
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in runs.weights(run.student).values())


@pytest.mark.slow
def test_two_processes_train_rounded(home: Path, tiny_recipe: Path) -> None:
    distill(tiny_recipe, [*ROUNDED, "run_dir=one"])
    config = runs.CONFIGS / "ddp-cpu.yaml"
    done = runs.launch(config, "distill", tiny_recipe.name, *ROUNDED, "run_dir=two", cwd=home)
    assert done.returncode == 0, done.stderr
    runs.assert_same_run(Path("one"), Path("two"), home / "student")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["quantize.qat={}", "train.lora={rank: 4}"], "leave one of the two out"),
        (["quantize.qat={scheme: fp16}"], "has no integers to train for"),
        (["quantize.qat={scheme: int5}"], "int5"),
        (["quantize.qat={share: 0}"], "share"),
    ],
)
def test_refused_before_anything_is_generated(
    home: Path, tiny_recipe: Path, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        distill(tiny_recipe, overrides)
    assert "\n" not in str(caught.value)
    assert not Path("runs").exists()


def test_a_family_that_cannot_be_exported_is_refused(home: Path, tiny_recipe: Path, monkeypatch) -> None:
    monkeypatch.setattr(graphs, "family", lambda _: (_ for _ in ()).throw(UserError("can't be exported yet")))
    with pytest.raises(UserError, match="can't be exported yet"):
        distill(tiny_recipe, ROUNDED)
    assert not Path("runs").exists()


def test_the_plan_says_from_which_step_on(tiny_recipe: Path) -> None:
    recipe = load(tiny_recipe, ["train.phases.0.steps=1000", "quantize.qat={scheme: {scheme: int4, vision: int8}}"])
    lines = list(outline.lines(recipe, tiny_recipe))
    assert any("weights rounded as int4-vision-int8 from step 801 on" in line for line in lines)
