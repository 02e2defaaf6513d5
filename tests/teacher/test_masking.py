"""Masked teachers against a float64 reference: exact counts, ties, nesting, tied tensors, bit-exact restore, memory."""

from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from masters_edge.common.errors import UserError
from masters_edge.teacher import masking
from tests import tiny

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
RATIOS = st.sampled_from([0.0, 0.05, 0.1, 0.15, 0.2, 0.29, 0.3, 0.5, 0.8])


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.body = nn.Sequential(nn.Linear(5, 9), nn.LayerNorm(9), nn.Linear(9, 5))
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight  # tied


def layer(weights: torch.Tensor) -> nn.Linear:
    """A linear layer with the values of `weights` `[out, in]`, dtype and all."""
    made = nn.Linear(weights.shape[1], weights.shape[0], bias=False).to(weights.dtype)
    made.weight.data = weights.clone()
    return made


def bits(tensor: torch.Tensor) -> np.ndarray:
    """The bytes, so that 0.0 and -0.0 differ."""
    return tensor.detach().contiguous().view(torch.uint8).numpy().copy()


def reference(weights: torch.Tensor, ratio: float, norms: torch.Tensor | None = None) -> torch.Tensor:
    """METHOD 1 in float64 with a stable sort: the floor(r n) smallest magnitudes, ties in order of position, are 0."""
    flat = weights.detach().double().numpy().reshape(-1).copy()
    scores = np.abs(flat)
    if norms is not None:  # float32 products, as the definition of the score says
        rows = np.abs(weights.detach().float().numpy()) * norms.numpy()
        scores = rows.reshape(-1).astype(np.float64)
    dropped = np.argsort(scores, kind="stable")[: int(Decimal(str(ratio)) * flat.size)]
    flat[dropped] = 0.0
    return torch.from_numpy(flat.reshape(weights.shape)).to(weights.dtype)


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    """Weights of any dtype; many ties, zeros of both signs and subnormals among them."""
    rows, columns = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    kind, seed = draw(st.sampled_from(["normal", "few values", "mostly zero", "tiny"])), draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    if kind == "few values":
        values = (values * 2).round() / 2
    if kind == "mostly zero":
        values = torch.where(values.abs() < 1, torch.copysign(torch.zeros_like(values), values), values)
    if kind == "tiny":
        values = values * 1e-40
    return values.to(draw(st.sampled_from(DTYPES)))


@pytest.fixture(params=[3, 1 << 19], ids=["chunks of 3 weights", "usual chunks"], scope="module", autouse=True)
def chunks(request: pytest.FixtureRequest) -> None:
    """Every test runs with chunks small enough to cut these small tensors, and with those of the product."""
    usual = masking._Weights.__init__

    def small(self, name, parameter, norms=None) -> None:
        usual(self, name, parameter, norms)
        self.size = request.param if norms is None else norms.numel() * max(1, request.param // norms.numel())

    masking._Weights.__init__ = small  # type: ignore[method-assign]
    yield
    masking._Weights.__init__ = usual  # type: ignore[method-assign]


@given(matrices(), RATIOS, st.lists(RATIOS, max_size=5))
@settings(max_examples=40, deadline=None)
def test_walks_through_ratios_match_the_reference_and_end_bit_for_bit(weights, r_max, walk) -> None:
    model, before = layer(weights), bits(weights)
    teacher = masking.MaskedTeacher(model, r_max)
    assert (bits(model.weight) == before).all()
    for ratio in [r for r in walk if r <= r_max] + [r_max]:
        teacher.set_ratio(ratio)
        expected = reference(weights, ratio)
        assert torch.equal(model.weight, expected)
        kept = expected != 0
        assert (bits(model.weight[kept]) == bits(weights[kept])).all()
    teacher.set_ratio(0.0)
    assert (bits(model.weight) == before).all()


@given(matrices(), RATIOS, RATIOS)
@settings(max_examples=40, deadline=None)
def test_in_place_masks_are_the_same_and_nested(weights, one, other) -> None:
    small, large = sorted((one, other))
    directly, in_steps = layer(weights), layer(weights)
    masking.mask_(directly, large)
    assert torch.equal(directly.weight, reference(weights, large))
    masking.mask_(in_steps, small)
    few = in_steps.weight == 0
    masking.mask_(in_steps, large)
    assert torch.equal(in_steps.weight, directly.weight) and bool((directly.weight[few] == 0).all())


@given(matrices(), RATIOS, st.lists(RATIOS, max_size=4), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_activation_scores_match_the_reference_and_restore(weights, r_max, walk, seed) -> None:
    if weights.dtype == torch.float64:
        weights = weights.float()
    norms = torch.rand(weights.shape[1], generator=torch.Generator().manual_seed(seed))
    norms[norms < 0.2] = 0.0  # a column that never saw anything
    model = layer(weights)
    teacher = masking.MaskedTeacher(model, r_max, norms={"weight": norms})
    for ratio in [r for r in walk if r <= r_max] + [r_max]:
        teacher.set_ratio(ratio)
        assert torch.equal(model.weight, reference(weights, ratio, norms))
    teacher.set_ratio(0.0)
    assert (bits(model.weight) == bits(weights)).all()


@given(matrices(), st.data())
@settings(max_examples=40, deadline=None)
def test_a_cut_drops_exactly_the_count_asked_for(weights, data) -> None:
    flat = weights.view(-1)
    count = data.draw(st.integers(0, flat.numel()))
    found = masking.cut(flat.split(5), count)
    dropped = torch.zeros(flat.numel(), dtype=torch.bool)
    dropped[np.argsort(flat.double().abs().numpy(), kind="stable")[:count].copy()] = True
    assert torch.equal(found.below(flat), dropped)
    assert torch.equal(torch.cat([found.below(flat[s : s + 4], s) for s in range(0, flat.numel(), 4)]), dropped)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_zeros_than_the_mask_drops_and_zeros_of_both_signs(dtype: torch.dtype) -> None:
    weights = torch.tensor([[0.0, -0.0, 1.0, -0.0, 0.0, -2.0, 0.0, -0.0, 0.0, 3.0]], dtype=dtype)
    model = layer(weights)
    teacher = masking.MaskedTeacher(model, 0.5)  # floor(5) of seven zeros: threshold 0
    teacher.set_ratio(0.5)
    assert torch.signbit(model.weight).tolist() == [[False] * 5 + [True, False, True, False, False]]  # the last -0.0
    teacher.set_ratio(0.2)
    assert torch.signbit(model.weight)[0, 3] and not torch.signbit(model.weight)[0, 1]  # stands behind the cut, before
    teacher.set_ratio(0.0)
    assert (bits(model.weight) == bits(weights)).all()


def test_infinities_and_nans_are_the_largest_magnitudes() -> None:
    weights = torch.tensor([[float("nan"), -float("inf"), 1.0, -2.0, 3.0, -float("nan"), 0.5, 4.0]])
    model = layer(weights)
    teacher = masking.MaskedTeacher(model, 0.5)
    teacher.set_ratio(0.5)
    assert (model.weight == 0).tolist() == [[False, False, True, True, True, False, True, False]]
    teacher.set_ratio(0.0)
    assert (bits(model.weight) == bits(weights)).all()


def test_ratios_count_as_they_are_written() -> None:
    assert masking.dropped_count(100, 0.29) == 29  # 0.29 * 100 is 28.999999999999996
    assert masking.dropped_count(30, 0.1) == 3  # 0.1 * 30 is 3.0000000000000004
    assert masking.dropped_count(10**10 + 9, 0.1) == 10**9


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_every_weight_tensor_once_and_neither_norms_nor_biases(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Small().to(dtype)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert set(masking.maskable(model)) == {"embed.weight", "body.0.weight", "body.2.weight"}
    teacher = masking.MaskedTeacher(model, 0.5)
    for ratio in (0.5, 0.3, 0.45):
        teacher.set_ratio(ratio)
        for name, parameter in model.named_parameters():
            expected = reference(before[name], ratio) if parameter.dim() >= 2 else before[name]
            assert torch.equal(parameter, expected), name
    assert model.head.weight is model.embed.weight
    teacher.set_ratio(0.0)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_globs_choose() -> None:
    assert set(masking.maskable(Small(), include=["body.*"], exclude=["*.2.*"])) == {"body.0.weight"}


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (
            ["*", "no.such.*"],
            [],
            "mask.include: no weight tensor of it has a name like 'no.such.*'; names are such",
        ),
        (["*.bias"], [], "mask.include: no weight tensor of it has a name like '*.bias'"),
        (["*"], ["bodi.*"], "mask.exclude: no weight tensor of it has a name like 'bodi.*'"),
        (["body.*"], ["*"], "mask.exclude leaves no weight of it that may be masked"),
    ],
)
def test_globs_that_fit_nothing_are_refused(include: list[str], exclude: list[str], expected: str) -> None:
    names = list(masking.maskable(Small()))
    masking.check_globs(names, ["*", "body.*"], ["body.0.*"], "mask.{}", "it")
    with pytest.raises(UserError) as caught:
        masking.check_globs(names, include, exclude, "mask.{}", "it")
    assert expected in str(caught.value)


@pytest.fixture
def usual_chunks(request: pytest.FixtureRequest) -> None:
    if "usual chunks" not in request.node.name:
        pytest.skip("a whole model in chunks of three weights takes minutes and shows nothing more")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_holds_at_most_0_30_bytes_per_byte_of_the_teacher(dtype: torch.dtype, usual_chunks: None) -> None:
    model = nn.Sequential(nn.Embedding(1000, 64), nn.Linear(64, 300), nn.Linear(300, 64)).to(dtype)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    teacher = masking.MaskedTeacher(model, 0.2)
    assert 0.19 * size < teacher.extra_bytes <= 0.20 * size
    for ratio in (0.2, 0.1, 0.05, 0.0):
        teacher.set_ratio(ratio)
        assert teacher.extra_bytes <= 0.20 * size
    norms = {"1.weight": torch.ones(64), "2.weight": torch.ones(300)}
    assert masking.MaskedTeacher(model, 0.2, norms=norms).extra_bytes <= 0.30 * size
    held = [t for s in teacher._tensors for t in vars(s).values() if isinstance(t, torch.Tensor)]
    held += [t for s in teacher._tensors for t in vars(s.weights).values() if isinstance(t, torch.Tensor)]
    own = {t.untyped_storage().data_ptr() for t in model.parameters()}
    mine = [t.untyped_storage() for t in held if t.untyped_storage().data_ptr() not in own]
    assert sum(s.nbytes() for s in mine) == teacher.extra_bytes  # nothing is held that isn't counted


def test_refuses_what_it_cannot_mask() -> None:
    teacher = masking.MaskedTeacher(Small(), 0.2)
    for ratio in (-0.1, 0.25):
        with pytest.raises(ValueError, match="between 0 and r_max"):
            teacher.set_ratio(ratio)
    for r_max in (-0.1, 1.0):
        with pytest.raises(ValueError, match="at least 0 and less than 1"):
            masking.MaskedTeacher(Small(), r_max)
        with pytest.raises(ValueError, match="at least 0 and less than 1"):
            masking.mask_(Small(), r_max)
    quantized = Small()
    quantized.body[0].weight = nn.Parameter(torch.zeros(9, 5, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UserError, match="body.0.weight is int8"):
        masking.MaskedTeacher(quantized, 0.2)
    masking.MaskedTeacher(quantized, 0.2, exclude=["body.0.*"])
    with pytest.raises(ValueError, match="activation norms of embed.weight are not finite"):
        masking.MaskedTeacher(Small(), 0.2, norms={"embed.weight": torch.tensor([1.0, 2, 3, 4, float("inf")])})


def test_says_when_somebody_else_changed_the_weights() -> None:
    torch.manual_seed(0)
    model = nn.Linear(20, 20)
    teacher = masking.MaskedTeacher(model, 0.4)
    teacher.set_ratio(0.4)
    with torch.no_grad():
        model.weight.fill_(1.0)
    with pytest.raises(RuntimeError, match="changed while it was masked"):
        teacher.set_ratio(0.0)


def test_activation_norms_are_those_of_the_columns_and_deterministic() -> None:
    torch.manual_seed(0)
    model = Small()
    seen: list[torch.Tensor] = []
    hook = model.body[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().double()))
    found = []
    for _ in range(2):
        with masking.activation_norms(model) as norms:
            for ids in (torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]])):
                model.head(model.body(model.embed(ids)))
        found.append(norms)
    hook.remove()
    assert set(norms) == {"body.0.weight", "body.2.weight", "embed.weight"}  # the tied head under its own name
    expected = torch.cat([s.reshape(-1, 9) for s in seen[:2]]).norm(dim=0)
    torch.testing.assert_close(norms["body.2.weight"], expected.float())
    assert all(torch.equal(found[0][name], found[1][name]) and norms[name].dtype == torch.float32 for name in norms)
    model.body(model.embed(torch.tensor([[1]])))  # hooks are gone
    assert all(torch.equal(found[0][name], norms[name]) for name in norms)


def test_changes_what_a_real_model_says_and_gives_it_back(tmp_path, usual_chunks: None) -> None:
    from masters_edge.families import load_model

    model = load_model(str(tiny.smolvlm(tmp_path / "teacher")))
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        teacher = masking.MaskedTeacher(model, 0.6)
        teacher.set_ratio(0.6)
        assert not torch.equal(model(input_ids=ids).logits, whole)
        teacher.set_ratio(0.0)
        assert torch.equal(model(input_ids=ids).logits, whole)
