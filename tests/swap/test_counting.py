"""What counts as a training step: a call in training mode whose logits ask for a gradient, and nothing else."""

import torch

from swap.criteria import CLASSES, Make, assert_same_state, made, recommended, rows, stateful_criteria


def loop(validation: bool, make: Make) -> torch.nn.Module:
    """Two epochs, as most are written: the criterion outside of the model, so that model.eval() does not reach it."""
    model, criterion = made(torch.nn.CrossEntropyLoss).network, make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(2):
        model.train()
        for step in range(3):
            x, target = rows(3 * epoch + step)
            optimizer.zero_grad()
            criterion(model(x), target).backward()
            optimizer.step()
        if validation:
            model.eval()
            with torch.no_grad():
                criterion(model(rows(10)[0]), rows(10)[1])
            with torch.inference_mode():
                criterion(model(rows(11)[0]), rows(11)[1])
    return torch.nn.ModuleList([model, criterion])


@stateful_criteria
def test_a_validation_loop_does_not_count(make: Make) -> None:
    assert_same_state(loop(False, make), loop(True, make))


@stateful_criteria
def test_evaluation_mode_and_logits_without_gradient_do_not_count(make: Make) -> None:
    criterion, (_, target) = make(), rows(0)
    criterion(torch.randn(12, CLASSES), target)
    criterion.eval()
    criterion(torch.randn(12, CLASSES, requires_grad=True), target)
    assert_same_state(criterion, make())


def test_a_training_step_counts_its_targets_by_weight() -> None:
    criterion = recommended(ignore_index=-1)
    weight = torch.tensor([0.5, 2.0, 1.0, 1.0])
    criterion(torch.zeros(4, CLASSES, requires_grad=True), torch.tensor([0, 0, 3, -1]), sample_weight=weight)
    assert torch.equal(criterion.class_count, torch.tensor([2.5, 0.0, 0.0, 1.0], dtype=torch.float64))
