"""The loss from each set's cross-entropy is the loss of the logits, whatever engine the cross-entropies come from."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from contract.cases import Case, cases, classes_last, one_a_set, pool_ids
from equilog import (
    class_mass,
    class_mass_from_cross_entropy,
    log_balanced_cross_entropy,
    log_balanced_from_cross_entropy,
)

# torch scripts parts of its own compiler, and warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning")

Engine = Callable[[Tensor, Tensor], Tensor]


def of_torch(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, reduction="none")


class ByDifference(torch.autograd.Function):
    """As fused kernels do it: the log of the sum less the label's logit, in the type of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        log_sum = logits.logsumexp(1)
        ctx.save_for_backward(logits, target, log_sum)
        return log_sum - logits.gather(1, target[:, None]).squeeze(1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        logits, target, log_sum = ctx.saved_tensors
        shares = (logits - log_sum[:, None]).exp() - F.one_hot(target, logits.shape[1])
        return upstream[:, None] * shares, None


def by_difference(logits: Tensor, target: Tensor) -> Tensor:
    losses: Tensor = ByDifference.apply(logits, target)
    return losses


def from_engine(logits: Tensor, target: Tensor, *, engine: Engine = of_torch, **options: Any) -> Tensor:
    return log_balanced_from_cross_entropy(engine(logits, target), target, logits.shape[1], **options)


def value_and_gradients(loss: Callable[..., Tensor], logits: Tensor, target: Tensor, **options: Any) -> list[Tensor]:
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, target, **options)
    # Each pool's value counts differently, so that their gradients cannot be mistaken for each other.
    total = (value * torch.arange(1, value.numel() + 1, dtype=value.dtype).reshape(value.shape)).sum()
    learnt = [each for each in options.values() if isinstance(each, Tensor) and each.requires_grad]
    return [value.detach(), *torch.autograd.grad(total, [logits, *learnt])]


def check_same(found: list[Tensor], expected: list[Tensor], rtol: float = 1e-10, atol: float = 1e-12) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def of_index_targets_and_class_balance(case: Case) -> bool:
    options = case.inputs().options
    usual = options.get("balance", "class") == "class" and options.get("inner", "odds") == "odds"
    return usual and not options.get("label_smoothing")


CASES = [each for each in cases("index", multilabel=False) if of_index_targets_and_class_balance(each.values[0])]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_those_of_the_logits(case: Case, reduction: str, dtype: torch.dtype) -> None:
    """In float32 to 1e-5: losses near 0 have the absolute precision of the logits, which are of size 2 here."""
    inputs = case.inputs()
    options = {name: value for name, value in inputs.options.items() if name not in ("balance", "compensation")}
    options["reduction"] = reduction
    for name in ("weight", "sample_weight"):
        if name in options:
            options[name] = options[name].to(dtype).requires_grad_()

    def with_prior_in_the_logits(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        prior, strength = options.pop("prior", None), options.pop("prior_strength", 1.0)
        if prior is not None:
            logits = logits + strength * prior.to(logits).log().reshape(-1, *[1] * (logits.dim() - 2))
        return from_engine(options.pop("scale", 1.0) * logits, target, **options)

    logits = inputs.logits.to(dtype)
    rtol, atol = (1e-10, 1e-12) if dtype == torch.float64 else (1e-5, 1e-6)
    check_same(
        value_and_gradients(with_prior_in_the_logits, logits, inputs.target, **options),
        value_and_gradients(log_balanced_cross_entropy, logits, inputs.target, **options),
        rtol,
        atol,
    )


def test_sets_of_any_shape_are_those_in_a_row() -> None:
    logits, target = sets(24, 4)
    losses = of_torch(logits, target)
    weight = torch.rand(2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for pool in ("sample", "batch", 5, torch.tensor([1, 0]), None):
        shape = torch.Size((2, 3, 4))
        found = log_balanced_from_cross_entropy(
            losses.reshape(shape), target.reshape(shape), 4, pool=pool, sample_weight=weight
        )
        expected = log_balanced_from_cross_entropy(
            losses, target, 4, pool=pool_ids(pool, shape), sample_weight=one_a_set(weight, shape)
        )
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert torch.equal(log_balanced_from_cross_entropy(losses[0], target[0], 4), losses[0])


def test_pools_of_one_give_the_losses_back() -> None:
    logits, target = sets(24, 4)
    losses = of_torch(20 * logits, target).reshape(4, 6)
    found = log_balanced_from_cross_entropy(losses, target.reshape(4, 6), 4, pool=1, reduction="none")
    torch.testing.assert_close(found, losses, rtol=1e-14, atol=1e-14)


def of_a_layer(**options: Any) -> Engine:
    def losses(logits: Tensor, target: Tensor) -> Tensor:
        return F.linear_cross_entropy(
            logits, torch.eye(logits.shape[1]).to(logits), target, reduction="none", **options
        )

    return losses


ENGINES = {"by difference": by_difference, "compiled": torch.compile(of_torch, backend="aot_eager")}
if hasattr(F, "linear_cross_entropy"):  # not in older versions of torch
    ENGINES["torch's layer"] = of_a_layer()
    ENGINES["torch's layer in chunks"] = of_a_layer(options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=7))


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("options", [{}, {"pool": 16}, {"pool": 1}], ids=str)
def test_any_engine_will_do(engine: Engine, options: dict[str, Any]) -> None:
    logits, target = sets(60, 7)
    check_same(
        value_and_gradients(from_engine, logits, target, engine=engine, **options),
        value_and_gradients(log_balanced_cross_entropy, logits, target, **options),
    )


@pytest.mark.parametrize("engine", [of_torch, by_difference])
@pytest.mark.parametrize("size", [1e2, 1e4])
@pytest.mark.parametrize("right", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("pool", ["batch", 8, 1])
def test_extreme_logits_give_what_the_logits_give(right: float, size: float, engine: Engine, pool: str | int) -> None:
    logits, target = sets(40, 5)
    sure = torch.where(torch.arange(40) < right * 40, target, (target + 1) % 5)
    for sign in (1.0, -1.0):
        extreme = logits + sign * size * F.one_hot(sure, 5)
        check_same(
            value_and_gradients(from_engine, extreme, target, engine=engine, pool=pool),
            value_and_gradients(log_balanced_cross_entropy, extreme, target, pool=pool),
            rtol=1e-10,
            atol=1e-10,  # losses by difference are exact to the last digit of 1e4
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_loss_of_zero_keeps_its_gradient(dtype: torch.dtype) -> None:
    """The odds grow by 1 a nat there, of a class mass of 1 + 2 + 0 + 0 and of 1."""
    losses = torch.tensor([3.0, 1.0, 1 - 1e-7, 1.0, 0.0], dtype=dtype).log()
    losses[4] = -1e-9
    losses.requires_grad_()
    loss = log_balanced_from_cross_entropy(losses, torch.tensor([0, 0, 0, 1, 2]), 3, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, losses)
    exact = torch.finfo(dtype).eps * 100
    torch.testing.assert_close(loss, torch.tensor(3.0, dtype=dtype).log(), rtol=exact, atol=0)
    torch.testing.assert_close(gradient, torch.tensor([1, 1 / 3, 1 / 3, 1, 1], dtype=dtype), rtol=exact, atol=0)


@pytest.mark.parametrize("pool", ["batch", 1])
def test_a_class_right_in_every_set_costs_nothing_and_teaches_as_cross_entropy_does(pool: str | int) -> None:
    logits = 40.0 * torch.eye(4)
    target = torch.arange(4)
    value, gradient = value_and_gradients(from_engine, logits, target, pool=pool, reduction="sum")
    assert (of_torch(logits, target) == 0).all()
    assert 0 <= value < 1e-14
    expected = value_and_gradients(lambda z, t: of_torch(z, t).sum(), logits, target)[1]
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=0)


def test_infinity_and_nan_stay_in_their_class() -> None:
    losses = torch.tensor([1.0, torch.inf, 1.0, 2.0, torch.nan, 3.0], requires_grad=True)
    target = torch.tensor([0, 1, 1, 0, 2, -100])
    pools = torch.tensor([0, 1, 1, 0, 2, 2])
    value = log_balanced_from_cross_entropy(losses, target, 3, pool=pools, reduction="none")
    assert value[0].isfinite()
    assert value[1] == torch.inf
    assert value[2].isnan()
    (gradient,) = torch.autograd.grad(value[:2].sum(), losses)
    assert gradient[[0, 3]].gt(0).all()
    assert gradient[[1, 2, 5]].eq(0).all()


@pytest.mark.parametrize("held", [torch.nan, torch.inf, -7.0, 1e30])
@pytest.mark.parametrize("options", [{}, {"pool": 2}, {"sample_weight": torch.tensor([1.0, 0.0, 1.0, 1.0])}], ids=str)
def test_what_an_ignored_set_holds_does_not_matter(held: float, options: dict[str, Any]) -> None:
    target = torch.tensor([0, 0 if "sample_weight" in options else -100, 1, 0])
    losses = torch.tensor([1.0, held, 2.0, 3.0], requires_grad=True)
    value = log_balanced_from_cross_entropy(losses, target, 2, validate=True, **options)
    (gradient,) = torch.autograd.grad(value, losses)
    usual = losses.detach().clone().requires_grad_()
    usual.data[1] = 0.5
    expected = log_balanced_from_cross_entropy(usual, target, 2, **options)
    assert value == expected
    assert torch.equal(gradient, torch.autograd.grad(expected, usual)[0])
    assert gradient[1] == 0


@pytest.mark.parametrize("sets", [0, 3])
def test_no_sets_at_all_cost_nothing(sets: int) -> None:
    losses = torch.full((sets,), torch.nan, requires_grad=True)
    for pool in ("batch", 2):
        loss = log_balanced_from_cross_entropy(losses, torch.full((sets,), -100), 3, pool=pool)
        (gradient,) = torch.autograd.grad(loss, losses)
        assert loss == 0
        assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("options", [{}, {"pool": 3}, {"reduction": "sum"}], ids=str)
def test_shares_of_the_parts_add_up_to_the_whole(options: dict[str, Any]) -> None:
    logits, target = sets(24, 4)
    parts = [slice(0, 6), slice(6, 21), slice(21, 24)]
    masses = [
        class_mass_from_cross_entropy(of_torch(logits[part], target[part]), target[part], 4, **options)
        for part in parts
    ]
    masses[1] = class_mass(logits[parts[1]], target[parts[1]], **options)  # the same, from logits
    whole = masses[0].merge(masses[1]).merge(masses[2])
    value, gradient = value_and_gradients(log_balanced_cross_entropy, logits, target, **options)
    shares = [
        value_and_gradients(from_engine, logits[part], target[part], class_mass=whole, **options) for part in parts
    ]
    torch.testing.assert_close(torch.cat([share for _, share in shares]), gradient, rtol=1e-10, atol=1e-12)
    values = torch.stack([value for value, _ in shares])
    torch.testing.assert_close(values[0] if whole.layout.spans else values.sum(), value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("options", [{}, {"pool": 3}, {"pool": torch.arange(9) // 4}], ids=["batch", "three", "ids"])
def test_derivatives_of_both_orders(options: dict[str, Any]) -> None:
    logits, target = sets(9, 3)
    inputs = tuple(each.detach().requires_grad_() for each in (of_torch(logits, target), target.double() + 0.5))

    def loss(losses: Tensor, sample_weight: Tensor) -> Tensor:
        return log_balanced_from_cross_entropy(
            losses, target, 3, sample_weight=sample_weight, reduction="sum", **options
        )

    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


def test_function_transforms() -> None:
    logits, target = sets(12, 3)
    losses = of_torch(logits, target)

    def loss(losses: Tensor) -> Tensor:
        return log_balanced_from_cross_entropy(losses, target, 3)

    several = torch.stack([losses, 2 * losses])
    expected = [torch.autograd.functional.jacobian(loss, each) for each in several]
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(several), torch.stack(expected))
    _, along = torch.func.jvp(loss, (losses,), (torch.ones_like(losses),))
    torch.testing.assert_close(along, expected[0].sum())


@pytest.mark.parametrize("pool", [4, *(pytest.param(pool, marks=pytest.mark.slow) for pool in ("batch", "ids"))])
def test_compiles_whole(pool: Any) -> None:
    logits, target = sets(12, 3)
    target[::5] = -100
    options = {"pool": torch.arange(12) % 3 if pool == "ids" else pool, "sample_weight": torch.rand(12).double()}
    torch.compiler.reset()
    compiled = torch.compile(from_engine, fullgraph=True, backend="aot_eager")
    check_same(
        value_and_gradients(compiled, logits, target, **options),
        value_and_gradients(log_balanced_cross_entropy, logits, target, **options),
    )
    target[1] = 7  # nobody waits to look at it
    assert compiled(logits.detach(), target.clamp(max=2), **options).isfinite()
    losses = of_torch(logits, target.clamp(max=2)).detach()
    wrong = torch.compile(log_balanced_from_cross_entropy, fullgraph=True, backend="aot_eager")
    assert wrong(losses, target, 3, **options).isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, target = sets(300, 3)
    losses = of_torch(30 * logits, target).to(dtype).requires_grad_()
    wide = losses.detach().float().requires_grad_()
    loss, expected = (log_balanced_from_cross_entropy(each, target, 3) for each in (losses, wide))
    assert loss.dtype == torch.float32
    assert loss == expected
    (gradient,), (expected_gradient,) = torch.autograd.grad(loss, losses), torch.autograd.grad(expected, wide)
    assert torch.equal(gradient, expected_gradient.to(dtype))


def nearly_right(size: float, seed: int) -> tuple[Tensor, Tensor]:
    """256 sets of 100 classes in float32, nine in ten of them right by about `size`, the others wrong by it."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(100, (256,), generator=generator)
    other = torch.randint(100, (256,), generator=generator)
    sure = torch.where(torch.rand(256, generator=generator) < 0.9, target, other)
    return torch.randn(256, 100, generator=generator) + size * F.one_hot(sure, 100), target


def at_random(size: float, seed: int) -> tuple[Tensor, Tensor]:
    """As many logits of standard deviation `size`, most sets wrong by more."""
    logits, target = nearly_right(0.0, seed)
    return size * logits, target


@pytest.mark.parametrize("engine", [of_torch, by_difference])
@pytest.mark.parametrize("draw", [nearly_right, at_random])
@pytest.mark.parametrize(("size", "most"), [(20.0, 5e-6), (100.0, 2e-5)])
def test_float32_losses_are_as_good_as_the_largest_gradient_needs(
    size: float, most: float, draw: Callable[[float, int], tuple[Tensor, Tensor]], engine: Engine
) -> None:
    """docs/losses/linear.md says so."""
    for seed in range(10):
        logits, target = draw(size, seed)
        found = value_and_gradients(from_engine, logits, target, engine=engine)[1].double()
        exact = value_and_gradients(log_balanced_cross_entropy, logits.double(), target)[1]
        assert (found - exact).abs().max() <= most * exact.abs().max()


def test_float32_losses_of_sets_that_are_right_are_rounding_where_the_logits_know_better() -> None:
    """docs/losses/linear.md says so; plain cross-entropy is no better."""
    logits, target = nearly_right(20.0, 0)

    def worst(loss: Callable[..., Tensor]) -> float:
        exact = value_and_gradients(loss, logits.double(), target)[1]
        error = value_and_gradients(loss, logits, target)[1] - exact
        return float((error.norm(dim=1) / exact.norm(dim=1)).max())

    assert worst(log_balanced_cross_entropy) < 1e-5
    assert worst(from_engine) > 0.1
    assert worst(lambda z, t: of_torch(z, t).sum()) > 0.1


GOOD = torch.tensor([0.5, 1.0])
LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("losses", "target", "classes", "options", "kind", "says"),
    [
        ([0.5], LABELS, 2, {}, TypeError, r"losses and target must be tensors; got list and Tensor"),
        (LABELS, LABELS, 2, {}, TypeError, r"losses must be floating point, not torch.int64"),
        (GOOD, GOOD, 2, {}, TypeError, r"target must be class indices, .* use log_balanced_cross_entropy"),
        (GOOD, LABELS, 0, {}, ValueError, r"num_classes must be at least 1; got 0"),
        (GOOD.mean(), LABELS, 2, {}, ValueError, r'losses must be \(2,\), .* got \(\)\. .*reduction="none"'),
        (GOOD, LABELS[None], 2, {}, ValueError, r"losses must be \(1, 2\), .* got \(2,\)\. Call losses.view_as"),
        (GOOD, LABELS[:1], 2, {}, ValueError, r"losses must be \(1,\), .* got \(2,\)\.$"),
        (-GOOD, LABELS, 2, {}, ValueError, r"losses must be cross-entropies, .* got -1\. .* need a minus sign"),
        (GOOD, LABELS, 1, {}, ValueError, r"target holds class 1, but there are 1 classes, 0 to 0"),
        (GOOD, LABELS, 2, {"weight": GOOD[:1]}, ValueError, r"weight must be \(2,\)"),
        (GOOD, LABELS, 2, {"reduction": "average"}, ValueError, r"reduction must be one of"),
        (GOOD / 0, LABELS, 2, {"validate": True}, ValueError, r"losses hold NaN or infinity"),
        (GOOD, LABELS, 2, {"class_mass": "pairs"}, ValueError, r'got one of balance "pair"'),
    ],
)
def test_errors_say_what_was_expected(
    losses: Any, target: Tensor, classes: int, options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    if "class_mass" in options:
        options = {"class_mass": class_mass(torch.zeros(2, 2), target, balance="pair")}
    with pytest.raises(kind, match=r"^log_balanced_from_cross_entropy: .*" + says):
        log_balanced_from_cross_entropy(losses, target, classes, **options)


def sets(n: int, classes: int) -> tuple[Tensor, Tensor]:
    """Logits of size 2 and targets, all classes among them."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return classes_last(logits), torch.arange(n) % classes
