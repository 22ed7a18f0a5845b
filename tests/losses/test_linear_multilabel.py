"""The multi-label loss from hidden states and a matrix is the loss of their logits, in the memory of a few of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from equilog import (
    linear_multilabel_class_mass,
    linear_multilabel_cross_entropy,
    multilabel_class_mass,
    multilabel_cross_entropy,
)
from losses.test_linear import check_same, peak_bytes, value_and_gradients

# torch's compiler scripts parts of its own derivatives, and warns of that.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning")

N, L, D = 7, 13, 5
Options = dict[str, Any]
GENERATOR = torch.Generator().manual_seed(3)
INDEX = torch.stack([torch.randperm(L, generator=GENERATOR)[:4] for _ in range(N)])
INDEX[torch.rand(N, 4, generator=GENERATOR) < 0.4] = -1
SOFT = torch.rand(N, L, generator=GENERATOR, dtype=torch.float64)
TARGETS = {"index": INDEX, "hard": (SOFT < 0.2).long(), "soft": SOFT}
LABEL_WEIGHT = torch.rand(L, generator=GENERATOR, dtype=torch.float64)
LABEL_WEIGHT[4] = 0.0
SAMPLE_WEIGHT = 3 * torch.rand(N, generator=GENERATOR, dtype=torch.float64)
SAMPLE_WEIGHT[2] = 0.0
PRIOR = 0.05 + 0.9 * torch.rand(L, generator=GENERATOR, dtype=torch.float64)
OPTIONS: dict[str, Options] = {
    "sample": {},
    "batch": {"pool": "batch"},
    "ids": {"pool": torch.tensor([0, 2, 2, 0, 1, 4, 4])},
    "weights": {"label_weight": LABEL_WEIGHT, "sample_weight": SAMPLE_WEIGHT, "pos_weight": 2.5, "scale": 0.7},
    "everything": {
        "label_weight": LABEL_WEIGHT,
        "sample_weight": SAMPLE_WEIGHT,
        "pos_weight": 0.4,
        "pool": "batch",
        "scale": 1.3,
        "inner": "nll",
        "prior": PRIOR,
        "prior_strength": 0.7,
    },
    "divergence": {"inner": "divergence", "pool": torch.tensor([0, 2, 2, 0, 1, 4, 4])},
    "label": {"pool": "label", "prior": PRIOR},
    "label, everything": {
        "pool": "label",
        "inner": "nll",
        "label_weight": LABEL_WEIGHT,
        "sample_weight": SAMPLE_WEIGHT,
        "pos_weight": 0.4,
        "scale": 1.3,
    },
}


def layer(*, bias: bool = True, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    hidden, weight, shift = (
        (spread * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for shape in ((N, D), (L, D), (L,))
    )
    return hidden, weight, shift if bias else None


def of_logits(function: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    hidden, weight, target, bias = inputs
    if "label_weight" in options:
        options["weight"] = options.pop("label_weight")
    return function(F.linear(hidden, weight, bias), target, **options)


@pytest.mark.parametrize("chunk_rows", [None, 3, 100])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", OPTIONS)
def test_value_and_gradients_are_those_of_the_logits(
    name: str, kind: str, reduction: str, chunk_rows: int | None
) -> None:
    options, target = OPTIONS[name] | {"reduction": reduction}, TARGETS[kind]
    if "sample_weight" in options and options.get("pool") != "label":  # where it gets no gradient
        options["sample_weight"] = options["sample_weight"].clone().requires_grad_()
    there = layer(bias=name != "ids")
    check_same(
        value_and_gradients(linear_multilabel_cross_entropy, there, target, chunk_rows=chunk_rows, **options),
        value_and_gradients(partial(of_logits, multilabel_cross_entropy), there, target, **options),
    )


@pytest.mark.parametrize("spread", [5.0, 100.0])
def test_extreme_logits_give_what_the_logits_give(spread: float) -> None:
    there = layer(spread=spread)
    value, *gradients = value_and_gradients(linear_multilabel_cross_entropy, there, INDEX)
    expected, *wanted = value_and_gradients(partial(of_logits, multilabel_cross_entropy), there, INDEX)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", OPTIONS)
def test_class_masses_are_those_of_the_logits(name: str, kind: str) -> None:
    options = OPTIONS[name]
    hidden, weight, bias = layer()
    found = linear_multilabel_class_mass(hidden, weight, TARGETS[kind], bias, **options)
    expected = of_logits(multilabel_class_mass, hidden, weight, TARGETS[kind], bias, **options)
    assert found.layout == expected.layout
    groups = len(expected.log_sums)
    torch.testing.assert_close(found.packed()[groups:], expected.packed()[groups:], rtol=1e-10, atol=1e-12)
    if found.layout.spans:  # of pools that do not, the logits are not computed
        torch.testing.assert_close(found.log_sums, expected.log_sums, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pool", ["batch", "label"])
def test_shares_of_the_parts_add_up_to_the_whole(pool: str) -> None:
    hidden, weight, bias = layer()
    inputs = (hidden, weight, bias)
    whole = multilabel_cross_entropy(F.linear(*inputs), SOFT, pool=pool, inner="nll")
    expected = torch.autograd.grad(whole, inputs)
    parts = [slice(0, 3), slice(3, N)]
    options: Options = {"pool": pool, "inner": "nll", "chunk_rows": 2}
    masses = [linear_multilabel_class_mass(hidden[part], weight, SOFT[part], bias, **options) for part in parts]
    mass = masses[0].merge(masses[1])
    total = [torch.zeros_like(each) for each in expected]
    for part in parts:
        loss = linear_multilabel_cross_entropy(hidden[part], weight, SOFT[part], bias, class_mass=mass, **options)
        torch.testing.assert_close(loss, whole, rtol=1e-12, atol=0)
        for sum_, share in zip(total, torch.autograd.grad(loss, inputs), strict=True):
            sum_ += share
    check_same(tuple(total), expected)


def test_peak_memory_is_a_part_of_the_logits() -> None:
    """The matrix's gradient is 1/16 of the logits, as is a chunk with its gradient; logits and theirs would be 2."""
    samples, labels, features = 1024, 8000, 64
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(samples, features, generator=generator).requires_grad_()
    weight = torch.randn(labels, features, generator=generator).requires_grad_()
    target = torch.randint(labels // 3, (samples, 3), generator=generator) * 3 + torch.arange(3)
    logits = samples * labels * 4
    for pool in ("sample", "batch", "label"):
        loss = partial(linear_multilabel_cross_entropy, hidden, weight, target, pool=pool)
        assert peak_bytes(lambda loss=loss: loss().backward()) < 0.3 * logits
        hidden.grad = weight.grad = None
    dense = peak_bytes(lambda: multilabel_cross_entropy(hidden @ weight.T, target).backward())
    assert dense >= 2 * logits


def test_half_precision_and_what_is_left_out() -> None:
    hidden, weight, bias = layer()
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_multilabel_cross_entropy(hidden.float(), weight.float(), INDEX, bias)
        logits = F.linear(hidden.float(), weight.float())
    assert logits.dtype == torch.bfloat16
    assert bias is not None
    torch.testing.assert_close(found, multilabel_cross_entropy(logits.float() + bias.float(), INDEX), rtol=1e-5, atol=0)
    spoilt = hidden.detach().clone()
    spoilt[2] = torch.nan
    for pool in ("sample", "label"):
        options = {"sample_weight": SAMPLE_WEIGHT, "pool": pool}
        torch.testing.assert_close(
            linear_multilabel_cross_entropy(spoilt, weight, INDEX, bias, **options),
            linear_multilabel_cross_entropy(hidden, weight, INDEX, bias, **options),
            rtol=0,
            atol=0,
        )
        nothing = linear_multilabel_cross_entropy(hidden[:0], weight, INDEX[:0], bias, pool=pool)
        assert nothing == 0


BAD: list[tuple[Options, type[Exception], tuple[str, ...]]] = [
    ({"hidden": torch.zeros(N, 2, D)}, ValueError, ("hidden", "(N, D)", "(7, 2, 5)")),
    ({"weight": torch.zeros(L)}, ValueError, ("weight", "label_weight", "(13,)")),
    ({"target": torch.zeros(N, 4)}, ValueError, ("target", "(7, 13)", "(7, k)", "(7, 4)")),
    ({"target": torch.zeros(N, L).long() + 2}, ValueError, ("target", "[0, 1]")),
    ({"target": INDEX[:4]}, ValueError, ("target", "(7, 13)", "(4, 4)")),
    ({"target": INDEX[:4], "index_target": True}, ValueError, ("(7, k) integers", "(4, 4)")),
    ({"target": torch.full((N, 2), 3)}, ValueError, ("label 3 twice in sample 0",)),
    ({"target": torch.full((N, 1), L)}, ValueError, ("label 13 in sample 0", "0 to 12")),
    ({"pool": 4}, ValueError, ("pool", "got 4")),
    ({"label_weight": torch.ones(4)}, ValueError, ("label_weight", "(13,)", "(4,)")),
    ({"chunk_rows": 0}, ValueError, ("chunk_rows", "at least 1", "got 0")),
    ({"pos_weight": torch.ones(2)}, ValueError, ("pos_weight", "one number", "(2,)")),
]


@pytest.mark.parametrize(("change", "error", "texts"), BAD)
def test_bad_arguments_are_named_with_what_was_expected(
    change: Options, error: type[Exception], texts: tuple[str, ...]
) -> None:
    call: Options = {"hidden": torch.zeros(N, D), "weight": torch.zeros(L, D), "target": INDEX} | change
    with pytest.raises(error) as raised:
        linear_multilabel_cross_entropy(**call)
    for text in ("linear_multilabel_cross_entropy: ", *texts):
        assert text in str(raised.value)


def test_a_wrong_index_that_nobody_waits_for_makes_its_sample_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where no value is looked at."""
    monkeypatch.setattr("equilog.inputs.labels.known", lambda *_: None)
    hidden, weight, bias = layer()
    for sample, spoilt in ((1, torch.tensor([3, 3, -1, -1])), (4, torch.tensor([0, L, -1, -1]))):
        index = INDEX.clone()
        index[sample] = spoilt
        each = linear_multilabel_cross_entropy(hidden, weight, index, bias, reduction="none")
        assert each.isnan().tolist() == [number == sample for number in range(N)]
