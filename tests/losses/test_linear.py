"""The loss from hidden states and a matrix is the loss of their logits, in the memory of a few of them."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from contract.cases import Case, cases
from equilog import class_mass, linear_class_mass, linear_log_balanced_cross_entropy, log_balanced_cross_entropy
from ranks import run_ranks

# torch scripts parts of its own derivatives and compiler, and warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning")

D = 5
Options = dict[str, Any]


def layer(
    sets: tuple[int, ...], classes: int, *, bias: bool = True, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Hidden states (*sets, D), a matrix (C, D) and a bias (C,)."""
    generator = torch.Generator().manual_seed(1)
    hidden, weight, shift = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((*sets, D), (classes, D), (classes,))
    )
    return hidden, weight, shift if bias else None


def of_logits(hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, **options: Any) -> Tensor:
    """What the loss from hidden states must equal."""
    if "class_weight" in options:
        options["weight"] = options.pop("class_weight")
    logits = F.linear(hidden, weight, bias)
    return log_balanced_cross_entropy(logits if hidden.dim() == 1 else logits.movedim(-1, 1), target, **options)


def value_and_gradients(
    loss: Callable[..., Tensor], inputs: tuple[Tensor | None, ...], target: Tensor, **options: Any
) -> tuple[Tensor, ...]:
    hidden, weight, bias = inputs
    value = loss(hidden, weight, target, bias, **options)
    # Each pool's value counts differently, so that their gradients cannot be mistaken for each other.
    total = (value * torch.arange(1, value.numel() + 1, dtype=value.dtype).reshape(value.shape)).sum()
    tensors = [each for each in (*inputs, *options.values()) if isinstance(each, Tensor) and each.requires_grad]
    return value.detach(), *torch.autograd.grad(total, tensors)


def check_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def of_index_targets_and_class_balance(case: Case) -> bool:
    options = case.inputs().options
    usual = options.get("balance", "class") == "class" and options.get("inner", "odds") == "odds"
    return usual and not options.get("label_smoothing")


CASES = [each for each in cases("index", multilabel=False) if of_index_targets_and_class_balance(each.values[0])]


@pytest.mark.parametrize("chunk_rows", [None, 1, 3, 100])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_those_of_the_logits(case: Case, reduction: str, chunk_rows: int | None) -> None:
    inputs = case.inputs()
    options = {key: value for key, value in inputs.options.items() if key not in ("balance", "compensation", "weight")}
    if "weight" in inputs.options:
        options["class_weight"] = inputs.options["weight"]
    for name in ("prior", "sample_weight"):
        if name in options:
            options[name] = options[name].clone().requires_grad_()
    there = layer(tuple(inputs.target.shape), inputs.logits.shape[1], bias="prior" not in options)
    options["reduction"] = reduction
    check_same(
        value_and_gradients(linear_log_balanced_cross_entropy, there, inputs.target, chunk_rows=chunk_rows, **options),
        value_and_gradients(of_logits, there, inputs.target, **options),
    )


def test_a_single_set() -> None:
    there = layer((), 4)
    target = torch.tensor(2)
    check_same(
        value_and_gradients(linear_log_balanced_cross_entropy, there, target),
        value_and_gradients(of_logits, there, target),
    )


class Products(TorchDispatchMode):
    """Counts products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm_.default):
            self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("target", "options", "expected"),
    [
        # Four chunks of four: logits and the gradients of hidden states in mm, that of the matrix in addmm_.
        ([0, 1, 2, 3] * 4, {}, {"mm": 8, "addmm_": 4}),
        ([0, 1, 2, 3] * 4, {"pool": 2}, {"mm": 8, "addmm_": 4}),
        ([-100] * 8 + [0, 1] * 4, {}, {"mm": 4, "addmm_": 2}),
        # One class of eight needs its two chunks' logits beforehand.
        ([0] * 8 + [1, 2] * 4, {}, {"mm": 10, "addmm_": 4}),
        ([0] * 16, {"reduction": "none"}, {"mm": 12, "addmm_": 4}),
        ([0] * 16, {"class_mass": None}, {"mm": 8, "addmm_": 4}),
    ],
)
def test_logits_are_computed_again_only_for_classes_beyond_a_chunk(
    target: list[int], options: Options, expected: dict[str, int]
) -> None:
    hidden, weight, bias = layer((16,), 5)
    labels = torch.tensor(target)
    if "class_mass" in options:
        options = {"class_mass": linear_class_mass(hidden, weight, labels, bias)}
    with Products() as products:
        linear_log_balanced_cross_entropy(hidden, weight, labels, bias, chunk_rows=4, **options).sum().backward()
    assert products.count == expected


def test_only_the_gradients_asked_for_are_computed() -> None:
    hidden, weight, bias = layer((12,), 4)
    labels = torch.arange(12) % 4
    with Products() as products:
        linear_log_balanced_cross_entropy(hidden, weight.detach(), labels, bias, chunk_rows=3).backward()
    assert products.count == {"mm": 8}
    with Products() as products, torch.no_grad():
        linear_log_balanced_cross_entropy(hidden, weight, labels, bias, chunk_rows=3)
    assert products.count == {"mm": 4}


def peak_bytes(step: Callable[[], Any]) -> int:
    """The most bytes that are allocated at any time of a step, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    now = most = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def test_peak_memory_is_a_part_of_the_logits() -> None:
    """The matrix's gradient is 1/8 of the logits, as is a chunk with its gradient; the logits and theirs would be 2."""
    n, classes, features = 1024, 8000, 128
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, features, generator=generator).requires_grad_()
    weight = torch.randn(classes, features, generator=generator).requires_grad_()
    target = torch.randint(classes, (n,), generator=generator)
    logits = n * classes * 4
    for pool in ("batch", 1, 16):
        step = partial(linear_log_balanced_cross_entropy, hidden, weight, target, pool=pool)
        assert peak_bytes(lambda step=step: step().backward()) < 0.4 * logits
        hidden.grad = weight.grad = None
    assert peak_bytes(lambda: of_logits(hidden, weight, target, None).backward()) > 2 * logits


@pytest.mark.parametrize("options", [{}, {"pool": 3}, {"reduction": "sum"}], ids=str)
def test_shares_of_the_parts_add_up_to_the_whole(options: Options) -> None:
    hidden, weight, bias = layer((24,), 4)
    target = torch.arange(24) % 3
    parts = [slice(0, 6), slice(6, 21), slice(21, 24)]
    masses = [linear_class_mass(hidden[part], weight, target[part], bias, chunk_rows=2, **options) for part in parts]
    masses[1] = class_mass(F.linear(hidden, weight, bias)[parts[1]], target[parts[1]], **options)
    whole = masses[0].merge(masses[1]).merge(masses[2])
    expected = value_and_gradients(of_logits, (hidden, weight, bias), target, **options)
    shares = [
        value_and_gradients(
            lambda h, w, t, b, p=part, **o: linear_log_balanced_cross_entropy(h[p], w, t[p], b, **o),
            (hidden, weight, bias),
            target,
            class_mass=whole,
            chunk_rows=2,
            **options,
        )
        for part in parts
    ]
    for gradients in zip(*(gradients for _, *gradients in shares), expected[1:], strict=True):
        torch.testing.assert_close(sum(gradients[:-1]), gradients[-1], rtol=1e-10, atol=1e-12)
    values = torch.stack([value for value, *_ in shares])
    torch.testing.assert_close(values[0] if whole.layout.spans else values.sum(), expected[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [1e4, 1e150])
def test_extreme_logits_give_what_the_logits_give(size: float) -> None:
    hidden, weight, bias = layer((12,), 4)
    target = torch.arange(12) % 3
    there = ((size * hidden).detach().requires_grad_(), weight, bias)
    check_same(
        value_and_gradients(linear_log_balanced_cross_entropy, there, target, chunk_rows=4),
        value_and_gradients(of_logits, there, target),
    )


def test_a_class_is_left_out_by_a_bias_of_minus_infinity() -> None:
    hidden, weight, _ = layer((12,), 4)
    bias = torch.tensor([0.0, -torch.inf, 0.0, 0.0], dtype=torch.float64)
    kept = torch.tensor([0, 2, 3])
    target = torch.arange(12) % 3
    found = value_and_gradients(linear_log_balanced_cross_entropy, (hidden, weight, bias), kept[target], chunk_rows=4)
    smaller = weight.detach()[kept].requires_grad_()
    expected = value_and_gradients(of_logits, (hidden, smaller, None), target)
    check_same(found[:2], expected[:2])
    torch.testing.assert_close(found[2][kept], expected[2], rtol=1e-10, atol=1e-12)
    assert found[2][1].count_nonzero() == 0
    assert linear_log_balanced_cross_entropy(hidden, weight, torch.ones(12, dtype=torch.int64), bias) == torch.inf


def test_nothing_to_learn_from_costs_nothing() -> None:
    for sets, target in ((3, torch.full((3,), -100)), (0, torch.zeros(0, dtype=torch.int64))):
        hidden, weight, bias = layer((sets,), 4)
        with torch.no_grad():
            hidden[:1] = torch.nan
        for pool in ("batch", 2):
            loss = linear_log_balanced_cross_entropy(hidden, weight, target, bias, pool=pool)
            loss.backward()
            assert loss == 0
            assert all(each.grad.count_nonzero() == 0 for each in (hidden, weight, bias))
    hidden, weight, _ = layer((3,), 1)
    loss = linear_log_balanced_cross_entropy(hidden, weight, torch.zeros(3, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert weight.grad.count_nonzero() == 0


def test_nan_in_a_set_gives_nan() -> None:
    hidden, weight, bias = layer((3,), 4)
    with torch.no_grad():
        hidden[1, 0] = torch.nan
    assert linear_log_balanced_cross_entropy(hidden, weight, torch.arange(3), bias).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_that_of_the_products(dtype: torch.dtype, autocast: bool) -> None:
    """Against the same products in one piece: one more rounding of each gradient, at the size of its largest."""
    there = layer((40,), 4, dtype=torch.float32 if autocast else dtype)
    target = torch.arange(40) % 3
    with torch.autocast("cpu", dtype, enabled=autocast):
        found = value_and_gradients(linear_log_balanced_cross_entropy, there, target, chunk_rows=2)
        expected = value_and_gradients(of_logits, there, target)
    assert found[0].dtype == torch.float32
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(found[0], expected[0], rtol=10 * rounding, atol=0)
    for one, other, tensor in zip(found[1:], expected[1:], there, strict=True):
        assert one.dtype == tensor.dtype
        assert (one - other).abs().max() <= 8 * rounding * other.abs().max()


def test_small_shares_of_many_chunks_are_not_lost_in_half_precision() -> None:
    """1 + 255 shares of 1/512 each: added up in bfloat16, the sum would stay at 1."""
    hidden = torch.tensor([[1.0]] + [[1 / 512]] * 255).bfloat16()
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    target = torch.zeros(256, dtype=torch.int64)
    linear_log_balanced_cross_entropy(hidden, weight, target, pool=1, reduction="sum", chunk_rows=1).backward()
    torch.testing.assert_close(weight.grad.float(), torch.tensor([[-0.75], [0.75]]), rtol=2e-3, atol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # the compiler's
def test_compiled_it_is_one_call_between_two_graphs() -> None:
    hidden, weight, bias = layer((12,), 4)
    target = torch.arange(12) % 4

    def loss(hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor) -> Tensor:
        return 2 * linear_log_balanced_cross_entropy(hidden.tanh(), weight, target, bias, chunk_rows=3)

    there = (hidden, weight, bias)
    torch._dynamo.reset()
    check_same(
        value_and_gradients(torch.compile(loss, backend="aot_eager"), there, target),
        value_and_gradients(loss, there, target),
    )
    assert torch._dynamo.explain(loss)(hidden, weight, target, bias).graph_count == 2


def test_derivatives_it_has_not_are_refused() -> None:
    hidden, weight, _ = layer((6,), 3)
    target = torch.arange(6) % 3

    def loss(hidden: Tensor) -> Tensor:
        return linear_log_balanced_cross_entropy(hidden, weight.detach(), target)

    with pytest.raises(RuntimeError, match=r"create_graph=True asks. Use log_balanced_cross_entropy\("):
        torch.autograd.grad(loss(hidden), hidden, create_graph=True)
    plain = hidden.detach()
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(loss)(plain)
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.jvp(loss, (plain,), (plain,))
    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(loss)(plain[None])


def test_a_graph_may_be_used_twice() -> None:
    hidden, weight, _ = layer((6,), 3)
    for reduction in ("mean", "none"):
        loss = linear_log_balanced_cross_entropy(hidden, weight, torch.arange(6) % 3, reduction=reduction).sum()
        once = torch.autograd.grad(loss, weight, retain_graph=True)
        assert torch.equal(once[0], torch.autograd.grad(loss, weight)[0])


BAD: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Any], str]] = {
    "features": (lambda h, w, t: linear_log_balanced_cross_entropy(h[:, :3], w, t), r"hidden must be \(N, ..., 5\)"),
    "matrix": (lambda h, w, t: linear_log_balanced_cross_entropy(h, w[0], t), r"weight must be \(C, D\).*class_weight"),
    "dtype": (lambda h, w, t: linear_log_balanced_cross_entropy(h, w.float(), t), "must be of one dtype.*autocast"),
    "integers": (lambda h, w, t: linear_log_balanced_cross_entropy(h.long(), w, t), "hidden must be floating point"),
    "list": (lambda h, w, t: linear_log_balanced_cross_entropy(h, w, t.tolist()), "target must be a tensor; got list"),
    "shape": (lambda h, w, t: linear_log_balanced_cross_entropy(h, w, t[:2]), r"target must be \(6,\) class indices"),
    "probabilities": (
        lambda h, w, t: linear_log_balanced_cross_entropy(h, w, F.one_hot(t, 3).double()),
        "Probabilities need the logits: use log_balanced_cross_entropy",
    ),
    "range": (lambda h, w, t: linear_log_balanced_cross_entropy(h, w, t + 1), "target holds class 3, but"),
    "bias": (lambda h, w, t: linear_log_balanced_cross_entropy(h, w, t, w[0]), r"bias must be \(3,\)"),
    "chunk": (lambda h, w, t: linear_log_balanced_cross_entropy(h, w, t, chunk_rows=0), "chunk_rows must be"),
    "class weight": (
        lambda h, w, t: linear_log_balanced_cross_entropy(h, w, t, class_weight=w[0]),
        r"class_weight must be \(3,\)",
    ),
    "prior": (lambda h, w, t: linear_log_balanced_cross_entropy(h, w, t, prior=torch.zeros(3)), "prior must be pos"),
    "reduction": (lambda h, w, t: linear_log_balanced_cross_entropy(h, w, t, reduction="max"), "reduction must be one"),
    "nan": (
        lambda h, w, t: linear_log_balanced_cross_entropy(h / 0, w, t, validate=True),
        "hidden holds NaN or infinity",
    ),
    "mass": (
        lambda h, w, t: linear_log_balanced_cross_entropy(
            h, w, t, class_mass=class_mass(torch.zeros(6, 3), t, balance="none")
        ),
        "class_mass must come from the same options",
    ),
    "in the mass": (lambda h, w, t: linear_class_mass(h, w[0], t), "linear_log_balanced_cross_entropy: weight must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named_with_what_was_expected(name: str) -> None:
    hidden, weight, _ = layer((6,), 3)
    call, message = BAD[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call(hidden.detach(), weight.detach(), torch.arange(6) % 3)


RANKED: dict[str, Options] = {
    "spanning": {},
    "own pools": {"pool": 4},
    "weighted": {"class_weight": torch.tensor([1.0, 2.0, 0.5, 3.0])},
}


def of_a_rank(rank: int) -> dict[str, tuple[Tensor, ...]]:
    hidden, weight, bias = layer((24,), 4)
    mine = slice(0, 16) if rank == 0 else slice(16, 24)
    return {
        name: value_and_gradients(
            lambda h, w, t, b, **o: linear_log_balanced_cross_entropy(h[mine], w, t[mine], b, **o),
            (hidden, weight, bias),
            torch.arange(24) % 4,
            process_group=dist.group.WORLD,
            chunk_rows=3,
            **options,
        )
        for name, options in RANKED.items()
    }


def test_ranks_have_the_loss_of_one_process() -> None:
    ranks = run_ranks(2, of_a_rank)
    for name, options in RANKED.items():
        there = layer((24,), 4)
        value, *gradients = value_and_gradients(of_logits, there, torch.arange(24) % 4, **options)
        values, *shares = zip(*(rank[name] for rank in ranks), strict=True)
        torch.testing.assert_close(sum(values) / 2, value, rtol=1e-12, atol=0)
        for share, gradient in zip(shares, gradients, strict=True):
            torch.testing.assert_close(sum(share) / 2, gradient, rtol=1e-10, atol=1e-12)
