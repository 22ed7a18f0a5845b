"""Training steps as they are really made: compiled, in lower precision, captured, interrupted."""

import copy

import pytest
import torch
from torch import Tensor, nn

from equilog import LogBalancedCrossEntropyLoss, MultiLabelCrossEntropyLoss, accumulate

C, D = 5, 6
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CRITERIA = {
    "batch": lambda: LogBalancedCrossEntropyLoss(pool="batch"),
    "pools of 4": lambda: LogBalancedCrossEntropyLoss(pool=4),
    "running prior": lambda: LogBalancedCrossEntropyLoss(C, prior="auto"),
    "stream": lambda: LogBalancedCrossEntropyLoss(C, pool="stream", prior="auto"),
    "pair": lambda: LogBalancedCrossEntropyLoss(balance="pair"),
    "smoothing": lambda: LogBalancedCrossEntropyLoss(label_smoothing=0.1),
    "labels": lambda: MultiLabelCrossEntropyLoss(),
    "labels, stream": lambda: MultiLabelCrossEntropyLoss(pool="stream"),
}


def data(n: int, multilabel: bool, seed: int = 0, device: str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, target = torch.randn(n, D, generator=generator), torch.randint(C, (n,), generator=generator)
    target[0] = -100
    return x.to(device), (nn.functional.one_hot(target.clamp(min=0), C) if multilabel else target).to(device)


def network(device: str = "cpu") -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(D, 16), nn.Tanh(), nn.Linear(16, C)).to(device)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pools of 4", "stream", "labels"])
def test_a_compiled_training_step_takes_any_batch_size_without_compiling_anew(name):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain_model = network()
    model = copy.deepcopy(plain_model)
    criterion, plain = CRITERIA[name](), CRITERIA[name]()

    def step(x: Tensor, target: Tensor) -> Tensor:
        return criterion(model(x), target)

    # "aot_eager" traces forward and backward as the default does; only the making of kernels is left out.
    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    graphs = []
    for seed, n in enumerate((8, 8, 13, 22, 7)):
        x, target = data(n, criterion.multilabel, seed)
        loss = compiled(x, target)
        loss.backward()
        plain_loss = plain(plain_model(x), target)
        plain_loss.backward()
        torch.testing.assert_close(loss, plain_loss)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    for mine, theirs in zip(model.parameters(), plain_model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(criterion.state_dict()[key], value, equal_nan=True)
    assert len(set(graphs)) == 1, graphs


@pytest.mark.parametrize("name", CRITERIA)
def test_bfloat16_autocast_computes_the_loss_in_float32(name):
    criterion, plain = CRITERIA[name](), CRITERIA[name]()
    model = network()
    x, target = data(16, criterion.multilabel)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
        loss = criterion(logits, target)
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain(logits.float(), target))
    loss.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(criterion.state_dict()[key], value, equal_nan=True)


@needs_gpu
@pytest.mark.parametrize("name", CRITERIA)
def test_a_float16_step_with_a_gradient_scaler_is_near_the_float32_one(name):
    criterion, plain = CRITERIA[name]().cuda(), CRITERIA[name]().cuda()
    model = network("cuda")
    exact = copy.deepcopy(model)
    scaler = torch.amp.GradScaler("cuda")
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (model, exact)]
    for seed in range(3):
        x, target = data(32, criterion.multilabel, seed, "cuda")
        for optimizer in optimizers:
            optimizer.zero_grad()

        def call(loss, part):
            with torch.autocast("cuda", torch.float16):
                return loss(model(part[0]), part[1])

        parts = list(zip(x.split(12), target.split(12), strict=True))
        accumulate(call, criterion, parts, backward=lambda loss: scaler.scale(loss).backward())
        scaler.step(optimizers[0])
        scaler.update()
        plain(exact(x), target).backward()
        optimizers[1].step()
    assert scaler.get_scale() == 65536.0  # no step was skipped
    for mine, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-2)


@needs_gpu
@pytest.mark.parametrize("name", CRITERIA)
def test_a_training_step_is_captured_in_a_cuda_graph(name):
    criterion, plain = CRITERIA[name]().cuda(), CRITERIA[name]().cuda()
    model = network("cuda")
    x, target = data(16, criterion.multilabel, 0, "cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            criterion(model(x), target).backward()
            plain(model(x), target)
    torch.cuda.current_stream().wait_stream(side)
    model.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = criterion(model(x), target)
        loss.backward()
    for seed in (1, 2, 3):
        new_x, new_target = data(16, criterion.multilabel, seed, "cuda")
        x.copy_(new_x)
        target.copy_(new_target)
        for p in model.parameters():
            p.grad.zero_()
        graph.replay()
        expected = plain(model(new_x), new_target)
        gradients = torch.autograd.grad(expected, list(model.parameters()))
        torch.testing.assert_close(loss, expected)
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            torch.testing.assert_close(p.grad, gradient)


@needs_gpu
def test_dropout_is_replayed_on_a_gpu():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, 64), nn.Dropout(0.5), nn.Linear(64, C)).cuda()
    x, target = data(16, False, 0, "cuda")
    seen = []

    def call(loss, part):
        logits = model(part)
        seen.append(logits.detach())
        return loss(logits, target[: len(part)])

    accumulate(call, LogBalancedCrossEntropyLoss(), [x[:9], x[9:]], model=model)
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0][:7], seen[1])
