"""The losses on a GPU: through the kernels, the same as by the formulas, in the memory of the logits."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from benchmarks.gpu import FORMS, measure, table
from torch import Tensor
from torch.func import grad, vmap

from equilog import (
    LogBalancedCrossEntropyLoss,
    MultiLabelCrossEntropyLoss,
    class_mass,
    linear_log_balanced_cross_entropy,
    log_balanced_cross_entropy,
    multilabel_cross_entropy,
)
from equilog.core import label_sums
from equilog.inputs import classes, values
from equilog.ops import dispatch
from ops.memory import Largest
from ops.triton_device import DEVICE, quiet

pytestmark = quiet

N, C = 24, 6
NOWHERE = torch.tensor([-100] * N)

Options = dict[str, Any]

CALLS: dict[str, Options] = {
    "batch": {},
    "pools of 5": {"pool": 5},
    "recommended": {"pool": 16, "prior": torch.arange(1, C + 1)},
    "every set": {"pool": 1, "reduction": "none"},
    "ids": {"pool": torch.arange(N) % 3},
    "no balance": {"balance": "none"},
    "pairs": {"balance": "pair"},
    "pairs by id": {"balance": "pair", "pool": torch.arange(N) % 3},
    "blocks": {"balance": torch.tensor([0, 1, 1, 0, 2, 2]), "prior": torch.arange(1, C + 1), "pool": 5},
    "nll": {"inner": "nll"},
    "divergence": {"inner": "divergence"},
    "everything": {
        "prior": torch.arange(1, C + 1),
        "scale": 0.5,
        "weight": torch.linspace(0.5, 2, C),
        "sample_weight": torch.linspace(0, 2, N),
        "reduction": "sum",
    },
}


@pytest.fixture
def by_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a GPU, also where the interpreter stands for it."""
    monkeypatch.setattr(dispatch, "triton", lambda *tensors: not dispatch.is_transformed(*tensors))
    with dispatch.only("triton"):
        yield


def draws(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return logits and labels with ignored sets, whose logits are NaN."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(N, C, generator=generator, dtype=torch.float64)
    labels = torch.randint(C, (N,), generator=generator)
    labels[::7], logits[::7] = -100, torch.nan
    logits[1, (labels[1] + 1) % C] = -torch.inf
    return logits.to(dtype), labels


def value_and_gradient(loss: Callable[..., Tensor], logits: Tensor, labels: Tensor, options: Options) -> list[Tensor]:
    logits = logits.detach().to(DEVICE).requires_grad_()
    options = {name: value.to(DEVICE) if isinstance(value, Tensor) else value for name, value in options.items()}
    value = loss(logits, labels.to(DEVICE), **options)
    return [value.detach().cpu(), torch.autograd.grad(value.sum(), logits)[0].cpu()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("by_kernels")
def test_the_loss_is_that_of_the_formulas(name: str, dtype: torch.dtype) -> None:
    """In float64, from the same rounded logits; the gradient to a step of the logits' type."""
    logits, labels = draws(dtype)
    with dispatch.only("reference"):
        expected = value_and_gradient(log_balanced_cross_entropy, logits.double(), labels, CALLS[name])
    value, gradient = value_and_gradient(log_balanced_cross_entropy, logits, labels, CALLS[name])
    wide = dtype == torch.float64
    assert value.dtype == (torch.float64 if wide else torch.float32)
    assert gradient.dtype == dtype
    torch.testing.assert_close(value.double(), expected[0], rtol=1e-12 if wide else 1e-5, atol=0)
    rtol = 1e-11 if wide else max(1e-4, 2 * torch.finfo(dtype).eps)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=rtol, atol=1e-14 if wide else 1e-7)


@pytest.mark.usefixtures("by_kernels")
@pytest.mark.parametrize("pool", [None, 3, 65])
def test_later_calls_are_as_the_first(pool: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though other sets are ignored, which nobody looks at; one out of range makes the loss no number."""
    for module in (classes, values):
        monkeypatch.setattr(module, "reads_values", lambda _, validate=False: validate)  # as on a GPU
    logits, labels = draws()
    logits = logits.nan_to_num(0.5, neginf=-2.0)
    plain, general = (LogBalancedCrossEntropyLoss(C, pool=pool, prior="auto").to(DEVICE) for _ in range(2))
    for target in (labels, labels.roll(1), NOWHERE, labels.clamp(min=0)):
        found = value_and_gradient(plain, logits, target, {})
        expected = value_and_gradient(general, logits, target, {"sample_weight": torch.ones(N).double()})
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-14)
        torch.testing.assert_close(plain.class_count, general.class_count, rtol=0, atol=0)
    assert value_and_gradient(plain, logits, torch.where(labels == 2, C, labels), {})[0].isnan()


SOFT: dict[str, Options] = {
    "batch": {},
    "pools of 5, offset": {"pool": 5, "compensation": "offset"},
    "everything": CALLS["everything"],
    "gentle": {"inner": "power", "pool": 5},
    "divergence": {"inner": "divergence"},
    "ids": CALLS["ids"],
}
LABELS: dict[str, Options] = {
    "samples": {},
    "batch": {"pool": "batch", "pos_weight": 2.0},
    "power by id": {"inner": "power", "pool": torch.arange(N * C).view(N, C) % 5},
    "nll": {"inner": "nll", "pool": "batch"},
    "labels apart, prior": {"pool": "label", "prior": torch.linspace(0.1, 0.8, C), "mask": torch.arange(C) != 2},
    "everything": {
        "inner": "divergence",
        "prior": torch.linspace(0.1, 0.8, C),
        "weight": torch.linspace(0.5, 2, C),
        "sample_weight": torch.linspace(0, 2, N),
        "mask": torch.arange(C) != 2,
        "scale": 0.5,
        "reduction": "sum",
    },
}


def assert_as_formulas(
    loss: Callable[..., Tensor], logits: Tensor, target: Tensor, options: Options, wide_target: Tensor | None = None
) -> None:
    with dispatch.only("reference"):
        expected = value_and_gradient(loss, logits.double(), target if wide_target is None else wide_target, options)
    value, gradient = value_and_gradient(loss, logits, target, options)
    assert gradient.dtype == logits.dtype
    torch.testing.assert_close(value.double(), expected[0], rtol=1e-5, atol=0)
    rtol = max(1e-4, 2 * torch.finfo(logits.dtype).eps)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SOFT)
@pytest.mark.usefixtures("by_kernels")
def test_soft_targets(name: str, dtype: torch.dtype) -> None:
    logits, labels = draws()
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(N, C, generator=generator, dtype=torch.float64).softmax(1).to(dtype)
    if "sample_weight" in SOFT[name]:  # its first set weighs nothing
        target[0] = torch.nan
    logits = logits.nan_to_num(0.0, neginf=-2.0).to(dtype)
    assert_as_formulas(log_balanced_cross_entropy, logits, target, SOFT[name], target.double())
    smoothed = SOFT[name] | {"label_smoothing": 0.1}
    assert_as_formulas(log_balanced_cross_entropy, logits, labels, smoothed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LABELS)
@pytest.mark.usefixtures("by_kernels")
def test_yes_no_labels(name: str, dtype: torch.dtype) -> None:
    """As values of two types, and by the numbers of the positives."""
    logits = draws()[0].nan_to_num(0.0, neginf=-2.0).to(dtype)
    positive = torch.rand(N, C, generator=torch.Generator().manual_seed(1)) < 0.3
    named = torch.where(positive, torch.arange(C), C).sort(1).values
    named = torch.where(named == C, -1, named)
    soft = torch.rand(N, C, generator=torch.Generator().manual_seed(2)).to(dtype)
    targets: list[tuple[Tensor, Options]] = [(positive, {}), (positive.long(), {"index_target": False}), (soft, {})]
    if name != "power by id":
        targets.append((named, {"index_target": True}))
    for target, options in targets:
        assert_as_formulas(multilabel_cross_entropy, logits, target, LABELS[name] | options)


@pytest.mark.usefixtures("by_kernels")
def test_nothing_but_ignored_sets() -> None:
    logits, _ = draws()
    value, gradient = value_and_gradient(log_balanced_cross_entropy, logits, NOWHERE, {})
    assert value == 0.0
    assert gradient.count_nonzero() == 0


@pytest.mark.usefixtures("by_kernels")
def test_parts_of_a_whole() -> None:
    logits, labels = draws()
    _, expected = value_and_gradient(log_balanced_cross_entropy, logits, labels, {})
    halves = [(logits[:9], labels[:9]), (logits[9:], labels[9:])]
    masses = [class_mass(z.to(DEVICE), t.to(DEVICE)) for z, t in halves]
    whole = masses[0].merge(masses[1])
    found = [value_and_gradient(log_balanced_cross_entropy, z, t, {"class_mass": whole})[1] for z, t in halves]
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "kind",
    ["index", "recommended", "smoothed", "divergence", "soft", "ids", "labels", "gentle-labels", "by-label", "named"],
)
@pytest.mark.usefixtures("by_kernels")
def test_half_precision_logits_and_targets_are_never_copied(kind: str) -> None:
    """Nothing of their size is made but the gradient of the logits, in their own type."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(N, 64, generator=generator).to(DEVICE, torch.bfloat16).requires_grad_()
    index = torch.randint(64, (N,), generator=generator).to(DEVICE)
    prior = torch.arange(1, 65, device=DEVICE)
    odds = prior / 65
    targets: dict[str, tuple[Callable[..., Tensor], Tensor, Options]] = {
        "index": (log_balanced_cross_entropy, index, {}),
        "recommended": (log_balanced_cross_entropy, index, {"pool": 16, "prior": prior}),
        "smoothed": (log_balanced_cross_entropy, index, {"label_smoothing": 0.1, "prior": prior}),
        "divergence": (log_balanced_cross_entropy, index, {"inner": "divergence"}),
        "soft": (log_balanced_cross_entropy, logits.detach().softmax(1), {"prior": prior}),
        "ids": (log_balanced_cross_entropy, logits.detach().softmax(1), {"pool": torch.arange(N, device=DEVICE) % 3}),
        "labels": (multilabel_cross_entropy, logits.detach() > 1.0, {"pos_weight": 2.0}),
        "gentle-labels": (multilabel_cross_entropy, logits.detach().sigmoid(), {"inner": "nll", "prior": odds}),
        "by-label": (multilabel_cross_entropy, logits.detach() > 1.0, {"pool": "label", "prior": odds}),
        "named": (multilabel_cross_entropy, index[:, None], {"weight": prior, "prior": odds}),
    }
    loss, target, options = targets[kind]
    with Largest(logits.nbytes, logits, target) as seen:
        loss(logits, target, **options).backward()
    assert seen.made == [logits.nbytes]


@pytest.mark.usefixtures("by_kernels")
def test_a_running_prior_counts_labels_without_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_sums, "_MOST", 64)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 64, generator=generator).to(DEVICE, torch.bfloat16).requires_grad_()
    criterion = MultiLabelCrossEntropyLoss(64, prior="auto", pool="batch").to(DEVICE)
    target = logits.detach() > 1.0
    with Largest(logits.nbytes, logits, target) as seen:
        criterion(logits, target).backward()
    assert seen.made == [logits.nbytes]
    assert criterion.class_count is not None
    torch.testing.assert_close(criterion.class_count[:, 0], target.sum(0).double(), rtol=0, atol=0)


@pytest.mark.usefixtures("by_kernels")
def test_the_logits_of_a_layer_are_made_in_its_own_type_alone() -> None:
    """Also where a bias and a prior are added to them."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(n, 2, generator=generator).to(DEVICE, torch.bfloat16).requires_grad_() for n in (N, 64)
    )
    bias, target = weight.detach()[:, 0], torch.arange(N, device=DEVICE)
    size = N * 64 * 2
    with Largest(size, hidden, weight) as seen:
        loss = linear_log_balanced_cross_entropy(
            hidden, weight, target, bias, prior=torch.arange(1, 65, device=DEVICE), scale=0.5, chunk_rows=N
        )
        loss.backward()
    assert set(seen.made) == {size}


GRAPHED: dict[str, tuple[Callable[..., Tensor], str, Options]] = {
    "batch": (log_balanced_cross_entropy, "index", {}),
    "recommended": (log_balanced_cross_entropy, "index", {"pool": 16, "prior": torch.arange(1, C + 1)}),
    "pairs": (log_balanced_cross_entropy, "index", {"balance": "pair"}),
    "probabilities": (log_balanced_cross_entropy, "soft", {}),
    "smoothed": (log_balanced_cross_entropy, "index", {"label_smoothing": 0.1, "inner": "power"}),
    "labels": (multilabel_cross_entropy, "labels", {}),
    "gentle labels": (multilabel_cross_entropy, "soft", {"inner": "nll"}),
    "named labels": (multilabel_cross_entropy, "named", {"index_target": True}),
}


@pytest.mark.skipif(DEVICE != "cuda", reason="no GPU here: a CUDA graph cannot be captured")
@pytest.mark.parametrize("name", GRAPHED)
def test_a_step_is_captured_in_a_cuda_graph(name: str) -> None:
    """Replayed with other logits it gives their loss and gradient, so nothing of the step waits for the device."""
    loss, kind, options = GRAPHED[name]
    logits, labels = draws(torch.float32)
    logits, labels = logits.nan_to_num(0.0, neginf=-2.0).to(DEVICE), labels.clamp(min=0).to(DEVICE)
    soft = logits.softmax(1)
    target = {"index": labels, "soft": soft, "labels": soft > 0.3, "named": labels[:, None]}[kind]
    options = {key: value.to(DEVICE) if isinstance(value, Tensor) else value for key, value in options.items()}
    held = logits.clone().requires_grad_()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            held.grad = None
            loss(held, target, **options).backward()
    torch.cuda.current_stream().wait_stream(stream)
    held.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = loss(held, target, **options)
        captured.backward()
    with torch.no_grad():
        held.copy_(2.0 * logits)
    graph.replay()
    expected = value_and_gradient(loss, 2.0 * logits, target, options)
    torch.testing.assert_close(captured.detach().cpu(), expected[0], rtol=1e-5, atol=1e-6)
    assert held.grad is not None
    torch.testing.assert_close(held.grad.cpu(), expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("by_kernels")
def test_transformed_calls_take_the_formulas() -> None:
    """vmap, per-sample gradients and batched gradients, of which the kernels know nothing."""
    logits, labels = draws()
    logits, labels = torch.where(logits.isnan(), 0.0, logits).to(DEVICE), labels.to(DEVICE)
    each = vmap(grad(log_balanced_cross_entropy))(logits, labels)
    for row, label, found in zip(logits, labels, each, strict=True):
        torch.testing.assert_close(found, grad(log_balanced_cross_entropy)(row, label), rtol=1e-12, atol=1e-15)
    logits.requires_grad_()
    values = log_balanced_cross_entropy(logits, labels, pool=6, reduction="none")
    rows = torch.autograd.grad(values, logits, torch.eye(4, device=DEVICE).double(), True, is_grads_batched=True)[0]
    for one, found in zip(values, rows, strict=True):
        torch.testing.assert_close(found, torch.autograd.grad(one, logits, retain_graph=True)[0], rtol=1e-12, atol=0)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


COMPILED: dict[str, tuple[Callable[..., Tensor], Options, str]] = {
    "index": (log_balanced_cross_entropy, {"pool": 4}, "pooled_index_logs_of_scores"),
    "pairs": (log_balanced_cross_entropy, {"balance": "pair"}, "pair_log_sums_of_pools"),
    "soft": (log_balanced_cross_entropy, {}, "class_log_odds_sums"),
    "smoothed": (log_balanced_cross_entropy, {"label_smoothing": 0.1, "pool": 4}, "class_log_odds_sums"),
    "labels": (multilabel_cross_entropy, {}, "label_log_sums_of_pools"),
    "gentle labels": (multilabel_cross_entropy, {"inner": "nll"}, "label_log_sums_of_pools"),
    "labels apart": (
        multilabel_cross_entropy,
        {"pool": "label", "prior": torch.linspace(0.1, 0.8, C)},
        "label_log_sums_of_pools",
    ),
}


@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.usefixtures("by_kernels", "fresh_compiler")
def test_compiles_whole_and_once_for_all_sizes(kind: str) -> None:
    """One graph, with the kernels as single operations in it; a second one for any number of sets."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    loss, options, operation = COMPILED[kind]
    operations: list[str] = []

    def note(graph: torch.fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        operations.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    compiled = torch.compile(loss, fullgraph=True, backend=aot_autograd(fw_compiler=note))
    logits, labels = draws()
    soft = logits.nan_to_num(0.0).softmax(1)
    target = {"soft": soft, "labels": soft > 0.3, "gentle labels": soft, "labels apart": soft > 0.3}.get(kind, labels)
    logits = logits if kind in ("index", "pairs") else logits.nan_to_num(0.0, neginf=-2.0)
    for size in (N, 11, 17, 13):
        found = value_and_gradient(compiled, logits[:size], target[:size], options)
        expected = value_and_gradient(loss, logits[:size], target[:size], options)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert operations.count(f"equilog.{operation}.default") == 2


@pytest.mark.usefixtures("by_kernels")
def test_the_benchmark_has_a_line_for_every_kind_of_form() -> None:
    """How fast anything is, no test asks."""
    small = {form.kind: replace(form, rows=4, columns=20, width=min(form.width, 3)) for form in FORMS}
    found = [measure(form, DEVICE, rounds=1, seconds=1e-4, compiles=False) for form in small.values()]
    assert len(found) == 5
    assert all(row[name] > 0 for row in found for name in ("ms", "over torch", "peak / logits"))
    assert [row["share of copy bandwidth"] is None for row in found] == [row["form"][:6] == "linear" for row in found]
    assert table(found, DEVICE).row_count == 5
