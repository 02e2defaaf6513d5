"""A loss that is no number stops the run in one sentence, and leaves the last good checkpoint as a student."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from masters_edge import families
from masters_edge.common.errors import UserError
from masters_edge.distill import distill
from masters_edge.objective import chunked
from masters_edge.training.reporter import Reporter

QUICK = ["train.phases.0.objective=labels", "data.held_out=0", "data.labels=all", "train.trackers=[none]"]


def spoil_from(call: int, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """The loss becomes `value` from the n-th forward pass on."""
    real, calls = chunked.loss, []

    def loss(*options: Any, **named: Any) -> Any:
        calls.append(1)
        total, reported = real(*options, **named)
        return (total * value if len(calls) >= call else total), reported

    monkeypatch.setattr(chunked, "loss", loss)


def metrics(run: Path) -> list[dict[str, Any]]:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_loss_that_is_no_number_stops_the_run(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    with monkeypatch.context() as patched:
        spoil_from(5, patched, math.nan)
        with pytest.raises(UserError) as caught:
            distill(tiny_recipe, QUICK)
    said = str(caught.value)
    assert "training stopped in phase 1, step 5: the loss is nan" in said and "lower train.learning_rate" in said
    run, good = Path("runs/tiny"), Path("runs/tiny/phase-0-labels/checkpoints/checkpoint-4")
    assert f"the last good checkpoint is {good}, a student as export --student takes it" in said
    assert not (run / "finished.json").exists() and not (run / "student").exists()
    assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4]
    student = families.load_model(str(good))
    assert families.load_processor(str(good)).tokenizer
    assert all(torch.isfinite(parameter).all() for parameter in student.parameters())
    assert distill(tiny_recipe, QUICK).finished  # what broke it was mended: it goes on there
    assert [line["step"] for line in metrics(run)] == list(range(1, 11))


@pytest.mark.wide
def test_weights_that_are_no_numbers_are_not_saved(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an overflow in the optimizer: no loss was computed with them yet."""
    monkeypatch.chdir(tiny_recipe.parent)
    real, calls = torch.optim.AdamW.step, []

    def step(self: torch.optim.AdamW, *options: Any, **named: Any) -> Any:
        done = real(self, *options, **named)
        calls.append(1)
        if len(calls) == 4:
            self.param_groups[0]["params"][0].data.view(-1)[0] = math.inf
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(UserError, match=r"in phase 1, step 4: weights are no numbers any more \(.*checkpoint-2, a"):
        distill(tiny_recipe, QUICK)
    assert [path.name for path in Path("runs/tiny/phase-0-labels/checkpoints").iterdir()] == ["checkpoint-2"]


def test_a_gradient_that_is_no_number_stops_before_it_spoils_the_weights(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is one: 0 times infinity comes up only on the way back."""

    class Spoilt(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
            return loss.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * math.inf

    monkeypatch.chdir(tiny_recipe.parent)
    real = chunked.loss

    def loss(*options: Any, **named: Any) -> Any:
        total, reported = real(*options, **named)
        return Spoilt.apply(total), reported

    monkeypatch.setattr(chunked, "loss", loss)
    with pytest.raises(UserError, match=r"in phase 1, step 1: the gradient's norm is (nan|inf)"):
        distill(tiny_recipe, QUICK)


@pytest.mark.parametrize(
    ("losses", "last", "times"),
    [
        ([0.5] * 9, False, 1),
        ([0.5] * 3, True, 1),
        ([0.5], True, 0),  # one line tells nothing
        ([0.5] * 5, True, 1),
        ([0.5, 0.5, 0.5, 0.5, 0.4], True, 0),
        ([0.0] * 6, True, 1),
    ],
)
def test_a_loss_that_doesn_t_move_is_said_once(
    losses: list[float], last: bool, times: int, capsys: pytest.CaptureFixture
) -> None:
    reporter = object.__new__(Reporter)
    reporter.losses = []
    for step, loss in enumerate(losses, 1):
        reporter._say_if_still(loss, step, last and step == len(losses))
    assert " ".join(capsys.readouterr().out.split()).count("the loss hasn't moved") == times
