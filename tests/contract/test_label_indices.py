"""Targets that name their positives give the loss of the targets that have a value a label, to rounding."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from contract import reference
from equilog import MultiLabelCrossEntropyLoss, multilabel_class_mass, multilabel_cross_entropy

# torch scripts parts of its own derivatives and compiler, and warns of that.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning")

N, L, K = 6, 11, 4


def drawn(spread: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, L), indices (N, K) in any order with padding anywhere, and the same targets (N, L)."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(N, L, generator=generator, dtype=torch.float64)
    index = torch.stack([torch.randperm(L, generator=generator)[:K] for _ in range(N)])
    index[torch.rand(N, K, generator=generator) < 0.4] = -1
    index[2] = -1  # a sample without positives
    return logits, index, dense(index, L)


def dense(index: Tensor, labels: int) -> Tensor:
    return torch.zeros(len(index), labels + 1).scatter(1, index % (labels + 1), 1.0)[:, :labels].long()


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    per_sample = 3 * torch.rand(N, generator=generator, dtype=torch.float64)
    per_sample[1] = 0.0
    return {
        "weight": torch.rand(L, generator=generator, dtype=torch.float64),
        "sample_weight": per_sample,
        "mask": torch.rand(N, L, generator=generator) < 0.8,
    }


OPTIONS: dict[str, dict[str, Any]] = {
    "sample": {},
    "batch": {"pool": "batch"},
    "ids": {"pool": torch.tensor([1, 0, 1, 3, 3, 0])},
    "scale": {"scale": 0.6, "pos_weight": 2.5},
    "label weight": {"weight": weights()["weight"]},
    "sample weight": {"sample_weight": weights()["sample_weight"]},
    "each weight": {"sample_weight": weights()["sample_weight"][:, None] * weights()["weight"]},
    "mask": {"mask": weights()["mask"]},
    "prior": {"prior": torch.linspace(0.02, 0.6, L).double(), "prior_strength": 0.7},
    "nll": {"inner": "nll", "mask": weights()["mask"]},
    "divergence": {"inner": "divergence", "pool": "batch"},
    "label": {"pool": "label", "sample_weight": weights()["sample_weight"]},
    "everything": {**weights(), "pool": torch.tensor([1, 0, 1, 3, 3, 0]), "scale": 1.4, "pos_weight": 0.3},
}
named = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@named
@pytest.mark.parametrize("spread", [2.0, 20.0, 1500.0])  # at the last, exponentials overflow
def test_indices_are_the_dense_target(options: dict[str, Any], spread: float) -> None:
    logits, index, target = drawn(spread)
    logits.requires_grad_()
    for reduction in ("mean", "sum", "none"):
        found = multilabel_cross_entropy(logits, index, reduction=reduction, **options)
        expected = multilabel_cross_entropy(logits, target, reduction=reduction, **options)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-300)
        (slope,) = torch.autograd.grad(found.sum(), logits)
        (wanted,) = torch.autograd.grad(expected.sum(), logits)
        torch.testing.assert_close(slope, wanted, rtol=1e-11, atol=1e-300)


@named
def test_class_masses_are_the_dense_targets(options: dict[str, Any]) -> None:
    logits, index, target = drawn()
    options = {name: value for name, value in options.items() if name != "pos_weight"}
    found = multilabel_class_mass(logits, index, **options)
    expected = multilabel_class_mass(logits, target, **options)
    assert found.layout == expected.layout
    torch.testing.assert_close(found.packed(), expected.packed(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("value", [0.0, 12.0, 20.0, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_where_a_difference_of_sums_is_not(value: float, dtype: torch.dtype) -> None:
    """Positives at +-value, all negatives the other way, and ties: log(1 - exp) loses all digits or the sign there."""
    for signs in ([1, 1, -1, -1, -1], [-1, -1, 1, 1, 1], [1, 1, 1, 1, 1], [1, -1, -1, -1, -1]):
        logits = (value * torch.tensor([signs], dtype=dtype)).requires_grad_()
        loss = multilabel_cross_entropy(logits, torch.tensor([[1, 0, -1]]), reduction="sum")
        (slope,) = torch.autograd.grad(loss, logits)
        target = torch.tensor([1, 1, 0, 0, 0])
        expected = reference.multilabel(logits.detach()[0].double(), target, pool=torch.zeros(5).long())
        digits = 4e-7 if dtype == torch.float32 else 1e-15
        assert loss.item() == pytest.approx(float(expected.values[0]), rel=digits)
        torch.testing.assert_close(slope[0].double(), expected.gradient, rtol=4 * digits, atol=0)
        assert (slope[0, :2] < 0).all()
        assert (slope[0, 2:] > 0).all()


def test_one_sample_and_no_positives_at_all() -> None:
    logits = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    expected = multilabel_cross_entropy(logits, torch.tensor([0, 1, 0]))
    torch.testing.assert_close(multilabel_cross_entropy(logits, torch.tensor([1, -1])), expected)
    nothing = multilabel_cross_entropy(logits[None], torch.zeros(1, 0, dtype=torch.int64))
    torch.testing.assert_close(nothing, (1 + logits.exp().sum()).log())


def test_of_one_shape_the_keyword_tells() -> None:
    logits = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    target = torch.tensor([[1, 0]])
    values = multilabel_cross_entropy(logits, target)
    torch.testing.assert_close(values, multilabel_cross_entropy(logits, target, index_target=False))
    torch.testing.assert_close(values, multilabel_cross_entropy(logits, torch.tensor([[0, -1]]), index_target=True))
    both = multilabel_cross_entropy(logits, target, index_target=True)
    torch.testing.assert_close(both, multilabel_cross_entropy(logits, torch.tensor([[1, 1]])))


@pytest.mark.parametrize(
    ("change", "error", "texts"),
    [
        ({"target": torch.tensor([[1, 3, 1]])}, ValueError, ("label 1 twice in sample 0", "-1")),
        ({"target": torch.tensor([[1, 5, -1]])}, ValueError, ("label 5 in sample 0", "0 to 4", "-1")),
        ({"target": torch.tensor([[1, -2, -1]])}, ValueError, ("label -2 in sample 0",)),
        ({"target": torch.tensor([[0.0, 1.0]])}, ValueError, ("shape of logits", "got (1, 2)")),
        ({"target": torch.ones(1, 5), "index_target": True}, TypeError, ("integers", "float32", "index_target=False")),
        ({"target": torch.tensor([0, 1]), "index_target": True}, ValueError, ("(N, k)", "(2,)", "(1, 5)")),
        ({"pool": 5}, ValueError, ("pool", "(N,) pool ids", "got 5")),
        ({"pool": torch.zeros(5).long()}, ValueError, ("pool", "(1,)", "(5,)")),
        ({"weight": torch.ones(4)}, ValueError, ("weight", "broadcastable to (1, 5)", "(4,)")),
        ({"sample_weight": torch.ones(5)}, ValueError, ("sample_weight", "(1,) or (1, 5)", "(5,)")),
        ({"mask": torch.ones(5)}, TypeError, ("mask", "bool", "float32")),
        ({"sample_weight": torch.tensor([-1.0]), "validate": True}, ValueError, ("negative",)),
        ({"logits": torch.full((1, 5), torch.nan), "validate": True}, ValueError, ("NaN",)),
    ],
)
def test_messages(change: dict[str, Any], error: type[Exception], texts: tuple[str, ...]) -> None:
    call: dict[str, Any] = {"logits": torch.zeros(1, 5), "target": torch.tensor([[1, 3, -1]])} | change
    with pytest.raises(error) as raised:
        multilabel_cross_entropy(**call)
    for text in ("multilabel_cross_entropy: ", *texts):
        assert text in str(raised.value)


def test_what_is_left_out_may_hold_anything() -> None:
    logits, index, _ = drawn()
    mask = torch.ones(N, L, dtype=torch.bool)
    mask[0, 3] = False
    expected = multilabel_cross_entropy(logits, index, mask=mask)
    logits[0, 3] = torch.nan
    logits.requires_grad_()
    found = multilabel_cross_entropy(logits, index, mask=mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    (slope,) = torch.autograd.grad(found, logits)
    assert slope.isfinite().all()
    assert slope[0, 3] == 0


def test_derivatives() -> None:
    logits, index, target = drawn()
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: multilabel_cross_entropy(z, index), logits, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda z: multilabel_cross_entropy(z, index), logits)
    weight = weights()["weight"].requires_grad_()
    assert torch.autograd.gradcheck(lambda v: multilabel_cross_entropy(logits, index, weight=v), weight)
    logits = logits.detach()
    total = partial(multilabel_cross_entropy, reduction="sum")
    slopes = vmap(grad(total))(logits, index)
    torch.testing.assert_close(slopes, grad(total)(logits, target), rtol=1e-12, atol=1e-14)
    _, slope = jvp(lambda z: total(z, index), (logits,), (logits.sin(),))
    torch.testing.assert_close(slope, (slopes * logits.sin()).sum(), rtol=1e-12, atol=0)


@pytest.mark.slow
def test_compiled_a_wrong_index_reads_nothing_and_gives_nan() -> None:
    torch.compiler.reset()
    logits, index, _ = drawn()
    compiled = torch.compile(multilabel_cross_entropy, fullgraph=True)
    torch.testing.assert_close(compiled(logits, index), multilabel_cross_entropy(logits, index), rtol=1e-12, atol=0)
    for wrong in (L, -2, 2**40):
        spoilt = index.clone()
        spoilt[4, 1] = wrong
        each = compiled(logits, spoilt, reduction="none")
        assert each.isnan().tolist() == [sample == 4 for sample in range(N)]
    index[0, :2] = 3
    assert compiled(logits, index, reduction="none").isnan().tolist() == [True] + [False] * (N - 1)


def test_the_module_takes_indices() -> None:
    logits, index, target = drawn()
    by_index, by_value = MultiLabelCrossEntropyLoss(pool="stream"), MultiLabelCrossEntropyLoss(pool="stream")
    logits.requires_grad_()
    for step in range(3):
        found, expected = by_index(logits + step, index), by_value(logits + step, target)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(by_index.stream, by_value.stream, rtol=1e-12, atol=1e-14)
    calibrations = by_index.calibrate(logits, index), by_value.calibrate(logits, target)
    found, expected = (calibration.scores(logits, "posterior") for calibration in calibrations)
    torch.testing.assert_close(found, expected)


class Largest(TorchDispatchMode):
    """Notes the largest memory of tensors made and still alive, by their storages."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, Tensor):
                self._note(each.untyped_storage())
        return made

    def _note(self, storage: Any) -> None:
        import weakref

        key = storage._cdata
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            weakref.finalize(storage, self.alive.pop, key, None)
            self.peak = max(self.peak, sum(self.alive.values()))


def peak_bytes(call: Callable[[], Any]) -> int:
    with Largest() as memory:
        call()
    return memory.peak


def test_memory_is_that_of_the_logits() -> None:
    """100,000 labels: the logits, the gradient and little more; no table of targets or masks beside them."""
    logits = torch.randn(32, 100_000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    index = torch.arange(32 * 5).view(32, 5) * 7 % 99_991

    def step() -> None:
        multilabel_cross_entropy(logits, index).backward()

    logits_and_gradient = 2 * logits.numel() * logits.element_size()
    assert logits_and_gradient <= peak_bytes(step) <= 1.05 * logits_and_gradient
