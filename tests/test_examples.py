"""Every example runs, and trains the weights of one process with the whole batch."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from equilog import log_balanced_cross_entropy

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def run(*command: object) -> None:
    """Run a command of this environment; its output is shown where it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    program, *arguments = map(str, command)
    done = subprocess.run(
        [str(Path(sys.executable).parent / program), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        cwd=EXAMPLES,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run_two(*arguments: object) -> None:
    run("torchrun", "--standalone", "--nproc-per-node", "2", *arguments)


def close(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Same weights, to what sums in another order leave of float32."""
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=2e-6, equal_nan=True, msg=lambda m, n=name: n + m)


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.as_tensor(images / 16, dtype=torch.float32), torch.as_tensor(labels)


def by_hand(model: torch.nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
    """Train on whole batches in one process, counting the prior without any help from the module.

    One pool of 300 rows spreads the gradient of ten logs over them, so that steps of the usual size would show nothing.
    """
    x, y = digits()
    count = torch.zeros(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    for step, rows in enumerate(batches):
        prior = (count + 1) / (count + 1).sum() if step else None
        optimizer.zero_grad()
        log_balanced_cross_entropy(model(x[rows]), y[rows], pool="batch", prior=prior).backward()
        optimizer.step()
        count += y[rows].bincount(minlength=10)
    return model.state_dict()


def network(middle: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), middle, torch.nn.Linear(32, 10))


def test_plain_training_balances_the_classes():
    plain, bare, calibrated = example("plain")["balanced_accuracies"]()
    assert min(bare, calibrated) > plain + 0.05


def test_micro_batches_train_the_weights_of_the_large_batch():
    train = example("micro_batches")["train"]
    start = network(torch.nn.ReLU())
    expected = by_hand(start, list(torch.randperm(1797).split(300)[:5]))
    close(train(128).state_dict(), expected)
    close(train(None).state_dict(), expected)


def test_mixed_soft_targets_train_the_weights_of_the_large_batch():
    train = example("mixup")["train"]
    large = train(300).state_dict()
    close(train(128).state_dict(), large)
    assert (large["0.weight"] - network(torch.nn.ReLU()).state_dict()["0.weight"]).abs().max() > 1e-3


def test_skorch_trains_the_weights_of_a_loop_by_hand():
    net = example("with_skorch")["train"](epochs=2)
    batches = list(torch.arange(1797).split(300)) * 2
    close(net.module_.state_dict(), by_hand(network(torch.nn.ReLU()), batches))


@pytest.mark.slow
def test_two_processes_under_torchrun_train_the_weights_of_one(tmp_path):
    run_two("several_processes.py", "--save", tmp_path / "two.pt")
    start = network(torch.nn.ReLU())
    expected = by_hand(start, list(torch.randperm(1797).split(300)[:5]))
    close(torch.load(tmp_path / "two.pt"), expected)


@pytest.mark.slow
def test_accelerate_trains_the_weights_of_one_process(tmp_path):
    """Two ranks, micro-batches of 50, 50 and 20 rows."""
    run_two("with_accelerate.py", "--save", tmp_path / "two.pt")
    start = network(torch.nn.Dropout(0.0))
    close(torch.load(tmp_path / "two.pt"), by_hand(start, list(torch.arange(1680).split(240))))


@pytest.mark.slow
def test_lightning_trains_the_weights_of_one_process(tmp_path):
    """Two ranks under ddp, accumulate_grad_batches of 4."""
    run("python", "with_lightning.py", "--devices", 2, "--micro-batches", 4, "--save", tmp_path / "two.pt")
    expected = by_hand(network(torch.nn.Tanh()), list(torch.arange(1600).split(400)) * 2)
    close(torch.load(tmp_path / "two.pt"), {f"{name}": value for name, value in expected.items()})


@pytest.mark.slow
@pytest.mark.parametrize("task", ["tokens", "distillation"])
def test_trainer_trains_the_weights_of_one_process(task, tmp_path):
    """Three micro-batches of padded sentences on each of two ranks, against 24 sentences at once."""
    from safetensors.torch import load_file

    run("python", "with_transformers.py", "--task", task, "--batch-size", 24, "--micro-batches", 1,
        "--output", tmp_path / "one")  # fmt: skip
    run_two("with_transformers.py", "--task", task, "--batch-size", 4, "--output", tmp_path / "two")
    one, two = (load_file(tmp_path / ranks / "model.safetensors") for ranks in ("one", "two"))
    close(two, one)
    if task == "tokens":
        counted = one["criterion.class_count"].sum()
        sentences = example("with_transformers")["sentences"]()
        assert counted == sum(len(sentence["labels"]) for sentence in sentences)


@pytest.mark.slow
def test_trainer_goes_on_from_a_checkpoint_to_the_weights_of_going_straight_on(tmp_path):
    """Running prior and stream are in the checkpoint too."""
    from safetensors.torch import load_file

    asked = ("with_transformers.py", "--pool", "stream", "--batch-size", 8)
    run("python", *asked, "--save-steps", 2, "--output", tmp_path / "straight")
    run("python", *asked, "--resume", tmp_path / "straight/checkpoint-2", "--output", tmp_path / "resumed")
    half, straight, resumed = (
        load_file(tmp_path / folder / "model.safetensors")
        for folder in ("straight/checkpoint-2", "straight", "resumed")
    )
    close(resumed, straight)
    for name in ("criterion.class_count", "criterion.stream", "classifier.weight"):
        assert not torch.equal(half[name], straight[name]), name


MAKES_DATA = {"make_tickets"}  # it draws the table of an example of `equilog compare`


def test_every_example_is_tested():
    tested = Path(__file__).read_text()
    assert [path.stem for path in EXAMPLES.glob("*.py") if f'"{path.stem}' not in tested] == []
