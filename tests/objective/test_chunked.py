"""A phase's loss in chunks against the plain computation over all logits: values, gradients, memory."""

import dataclasses

import pytest
import torch

from masters_edge.objective import chunked
from masters_edge.objective.divergence import TopLogProbs, jsd, kl
from masters_edge.objective.terms import Objective, Tokens
from masters_edge.recipe.schema import Phase, Reward

TOKENS, HIDDEN, VOCABULARY, PADDED = 37, 8, 60, 64


class Case:
    """Random hidden states and heads of a student, a teacher and a reference, with padded heads."""

    def __init__(self, dtype: torch.dtype, bias: bool = False) -> None:
        torch.manual_seed(0)
        self.hidden = torch.randn(TOKENS, HIDDEN, dtype=dtype, requires_grad=True)
        self.weight = torch.randn(PADDED, HIDDEN, dtype=dtype, requires_grad=True)
        self.bias = torch.randn(PADDED, dtype=dtype, requires_grad=True) if bias else None
        self.teacher = torch.randn(TOKENS, VOCABULARY, dtype=dtype) * 2
        self.reference = torch.randn(TOKENS, VOCABULARY, dtype=dtype)
        weights = torch.rand(TOKENS, dtype=dtype)
        self.tokens = Tokens(
            ids=torch.randint(0, VOCABULARY, (TOKENS,)),
            weights=weights / weights.sum(),
            advantages=torch.randn(TOKENS, dtype=dtype),
            initial_log_probs=-torch.rand(TOKENS, dtype=dtype) * 5,
        )

    def objective(self, phase: str, policy: str, teacher=None) -> Objective:
        reward = Reward(policy=policy, weight=0.7)
        return Objective(
            Phase(objective=phase),
            reward,
            self.tokens,
            teacher=teacher or (lambda part: self.teacher[part]),
            reference=(lambda part: self.reference[part]) if policy == "paper" else None,
        )

    def chunked(self, objective: Objective, entries: int) -> list:
        head = chunked.Head(self.weight, self.bias)
        loss, reported = chunked.loss(self.hidden, head, VOCABULARY, objective, entries)
        inputs = [t for t in (self.hidden, self.weight, self.bias) if t is not None]
        return [loss, *torch.autograd.grad(loss * 3, inputs), reported]

    def plain(self, phase: str, policy: str) -> list:
        """The equations of METHOD 4, 6 and 8 over all logits at once."""
        logits = torch.nn.functional.linear(self.hidden, self.weight, self.bias)[:, :VOCABULARY]
        t, w = self.tokens, self.tokens.weights
        log_p = torch.log_softmax(logits, -1)[torch.arange(TOKENS), t.ids]
        ratio = torch.exp(log_p - log_p.detach())
        terms = {
            "paper": ratio * t.advantages - 0.1 * kl(logits, self.reference),
            "positive": ratio * t.advantages.clamp(min=0),
            "truncated_is": (log_p.detach() - t.initial_log_probs).exp().clamp(max=1) * t.advantages * log_p,
        }
        grpo, distance = -(w * terms[policy]).sum(), (w * jsd(self.teacher, logits)).sum()
        loss = {
            "joint": distance + 0.7 * grpo,
            "distill": distance,
            "reward": 0.7 * grpo,
            "labels": -(w * log_p).sum(),
        }[phase]
        inputs = [x for x in (self.hidden, self.weight, self.bias) if x is not None]
        return [loss, *torch.autograd.grad(loss * 3, inputs), {"jsd": distance}]


@pytest.mark.parametrize("entries", [1, 5 * VOCABULARY, 10**6])
@pytest.mark.parametrize(
    ("phase", "policy"),
    [("joint", "paper"), ("joint", "positive"), ("joint", "truncated_is"), ("distill", "paper"), ("reward", "paper")]
    + [("labels", "paper")],
)
def test_value_and_gradient_are_the_plain_ones(phase: str, policy: str, entries: int) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        for bias in (False, True):
            case = Case(dtype, bias)
            *found, reported = case.chunked(case.objective(phase, policy), entries)
            *expected, terms = case.plain(phase, policy)
            for ours, plain in zip(found, expected):
                torch.testing.assert_close(ours, plain, atol=tolerance, rtol=tolerance)
            if "jsd" in reported:
                torch.testing.assert_close(reported["jsd"], terms["jsd"].detach(), atol=tolerance, rtol=tolerance)
            assert not any(value.requires_grad for value in reported.values())


def test_without_advantages_the_papers_term_is_its_kl_as_logged() -> None:
    """A group whose rewards are all alike: `loss = jsd + weight * beta * kl`, in value and gradient."""
    case = Case(torch.float64)
    case.tokens = dataclasses.replace(case.tokens, advantages=torch.zeros(TOKENS, dtype=torch.float64))
    loss, to_hidden, *_, reported = case.chunked(case.objective("joint", "paper"), 5 * VOCABULARY)
    torch.testing.assert_close(loss, reported["jsd"] + 0.7 * 0.1 * reported["kl_reference"])
    assert float(reported["kl_reference"]) > 0.01
    torch.testing.assert_close(to_hidden, case.plain("joint", "paper")[1])
    for policy in ("positive", "truncated_is"):  # nothing is left of these
        loss, *_, reported = case.chunked(case.objective("joint", policy), 5 * VOCABULARY)
        torch.testing.assert_close(loss, reported["jsd"])


def test_a_batch_in_which_nobody_said_anything_is_a_loss_of_nothing() -> None:
    case = Case(torch.float32)
    case.hidden = torch.zeros(0, HIDDEN, requires_grad=True)
    case.tokens = dataclasses.replace(
        case.tokens, **{f.name: getattr(case.tokens, f.name)[:0] for f in dataclasses.fields(case.tokens)}
    )
    case.teacher, case.reference = case.teacher[:0], case.reference[:0]
    loss, *gradients, reported = case.chunked(case.objective("joint", "paper"), 10**6)
    assert loss == 0 and reported["jsd"] == 0 and not any(g.any() for g in gradients)


def test_a_stored_teacher_is_the_live_one_where_all_its_tokens_are_stored() -> None:
    case = Case(torch.float64)
    live = case.chunked(case.objective("joint", "positive"), 5 * VOCABULARY)
    stored = TopLogProbs.of(case.teacher, VOCABULARY)
    cached = case.chunked(case.objective("joint", "positive", stored), 5 * VOCABULARY)
    for ours, plain in zip(cached[:3], live[:3]):
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-6)


def test_frozen_parts_get_no_gradient_and_evaluation_works_without_any() -> None:
    case = Case(torch.float32)
    head = chunked.Head(case.weight.detach(), None)
    loss, _ = chunked.loss(case.hidden, head, VOCABULARY, case.objective("distill", "paper"))
    (to_hidden,) = torch.autograd.grad(loss, [case.hidden])
    torch.testing.assert_close(to_hidden, case.plain("distill", "paper")[1] / 3)
    with torch.no_grad():
        quiet, _ = chunked.loss(case.hidden, head, VOCABULARY, case.objective("distill", "paper"))
    torch.testing.assert_close(quiet, loss.detach())


def test_bfloat16_products_add_up_in_float32() -> None:
    case = Case(torch.float32)
    objective = case.objective("joint", "positive")
    with torch.autocast("cpu", torch.bfloat16):
        one = case.chunked(objective, 10**6)
        many = case.chunked(objective, VOCABULARY)
    plain = case.plain("joint", "positive")
    for chunks in (one, many):
        assert chunks[1].dtype == chunks[2].dtype == torch.float32
        for ours, exact in zip(chunks[:3], plain[:3]):
            assert float(((ours - exact).norm() / exact.norm()).detach()) < 0.02
    assert float((many[2] - one[2]).norm() / one[2].norm()) < 0.01


def test_chunks_cover_every_token_once_and_hold_few_logits() -> None:
    parts = list(chunked.chunks(10, 100, 350))
    assert [(p.start, p.stop) for p in parts] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert [p.stop - p.start for p in chunked.chunks(3, 10**9)] == [1, 1, 1]


def test_a_head_that_is_no_linear_layer_or_has_something_behind_it_is_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    class Model:
        def get_output_embeddings(self):
            return torch.nn.Embedding(3, 3)

    with pytest.raises(TypeError, match="plain linear layer, not Embedding"):
        chunked.Head.of(Model())
    small = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    with pytest.raises(TypeError, match="final_logit_softcapping"):
        chunked.Head.of(Gemma2ForCausalLM(Gemma2Config(**small, head_dim=8, num_key_value_heads=1)))
