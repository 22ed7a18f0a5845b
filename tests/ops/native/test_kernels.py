"""What goes by the C++ kernels gives what the formula gives, and makes no more than is needed."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from equilog import log_balanced_cross_entropy
from equilog.ops import index_log_odds
from equilog.ops.native.call import has_kernels

needs_compiler = pytest.mark.skipif(not has_kernels(), reason="no C++ compiler here")


@needs_compiler
@pytest.mark.parametrize("shape", [(4096, 21), (3, 100_000), (1, 5)])
def test_threads_do_not_change_the_log_odds(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(shape, generator=generator).requires_grad_()
    labels = torch.randint(shape[1], shape[:1], generator=generator)

    def found() -> list[torch.Tensor]:
        log_odds = index_log_odds(scores, labels)
        return [log_odds, *torch.autograd.grad(log_odds.sum(), scores)]

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = found()
        torch.set_num_threads(4)
        assert all(map(torch.equal, alone, found()))
    finally:
        torch.set_num_threads(threads)


@needs_compiler
@pytest.mark.parametrize("balance", ["class", "pair"])
@pytest.mark.parametrize(("n", "classes"), [(60, 2), (200, 16), (300, 21)])
def test_prior_and_scale_are_those_of_float64(n: int, classes: int, balance: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, classes, generator=generator)
    target = torch.randint(classes, (n,), generator=generator)
    prior = torch.rand(classes, generator=generator) + 0.1
    for scale, strength in ((0.5, 1.0), (3.0, -2.0)):
        found = []
        for z in (logits.clone().requires_grad_(), logits.double().requires_grad_()):
            loss = log_balanced_cross_entropy(
                z, target, balance=balance, prior=prior, prior_strength=strength, scale=scale
            )
            (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
            (again,) = torch.autograd.grad(gradient.square().sum(), z)
            found.append((loss.detach().double(), gradient.detach().double(), again.double()))
        torch.testing.assert_close(found[0][:2], found[1][:2], rtol=2e-5, atol=2e-6)
        # Differences of terms that nearly cancel.
        torch.testing.assert_close(found[0][2], found[1][2], rtol=2e-2, atol=2e-4 * float(found[1][2].abs().max()))


@needs_compiler
def test_a_prior_may_be_learned() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(40, 3, generator=generator), torch.randint(3, (40,), generator=generator)
    slopes = []
    for dtype in (torch.float32, torch.float64):
        prior = torch.tensor([0.5, 0.3, 0.2], dtype=dtype, requires_grad=True)
        log_balanced_cross_entropy(logits.to(dtype), target, prior=prior).backward()
        slopes.append(prior.grad.double())
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)


@needs_compiler
def test_no_scores_are_made_of_a_prior() -> None:
    logits = torch.randn(1000, 200, requires_grad=True)
    target = torch.randint(200, (1000,))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        log_balanced_cross_entropy(logits, target, prior=torch.rand(200) + 0.1, scale=2.0).backward()
    made = [event.nbytes() for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert sum(size >= logits.nbytes // 2 for size in made) == 1  # the gradient


@needs_compiler
def test_tables_of_any_strides_are_read() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(40, 60, generator=generator)
    labels = torch.randint(20, (80,), generator=generator)[::2]
    for scores in (table[:, 5:25], table.T[:40, :20], table[:, :40:2], table[:1, :20].expand(40, 20)):
        scores = scores.detach().requires_grad_()
        log_odds = index_log_odds(scores, labels)
        (gradient,) = torch.autograd.grad(log_odds.sum(), scores)
        copied = scores.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        expected = index_log_odds(copied, labels)
        assert torch.equal(log_odds, expected)
        assert torch.equal(gradient, torch.autograd.grad(expected.sum(), copied)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its compiler
def test_compiled_once_for_all_sizes() -> None:
    """The number of sets is no multiple of the pool's size when it is compiled anew, with kernels and without."""
    loss = torch.compile(log_balanced_cross_entropy, fullgraph=True, dynamic=True)
    generator = torch.Generator().manual_seed(0)
    for n, classes in ((4000, 30), (5001, 40), (90, 5), (6001, 30)):
        found = []
        logits = torch.randn(n, classes, generator=generator)
        target = torch.randint(classes, (n,), generator=generator)
        for way in (loss, log_balanced_cross_entropy):
            z = logits.clone().requires_grad_()
            value = way(z, target, pool=16)
            found.append((value.detach(), torch.autograd.grad(value, z)[0]))
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)
