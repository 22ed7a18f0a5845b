"""transformers: Trainer with the criterion in the model or in compute_loss_func, and from_pretrained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from swap.criteria import (
    CLASSES,
    CRITERIA,
    FEATURES,
    Make,
    assert_same_state,
    every_criterion,
    rows,
    stateful_criteria,
    two_criteria,
)

ROWS = 32


class Config(PretrainedConfig):
    """Of a model that is made in no time."""

    model_type = "swap"


class Classifier(PreTrainedModel):
    """The model of a Hugging Face user, with its criterion inside, or none."""

    config_class = Config

    def __init__(self, config: Config, make: Make | None = None) -> None:
        super().__init__(config)
        self.network = nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, CLASSES))
        self.criterion = None if make is None else make()
        self.post_init()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.network(x)
        if labels is None or self.criterion is None:
            return {"logits": logits}
        return {"loss": self.criterion(logits, labels), "logits": logits}


def made(make: Make | None) -> Classifier:
    torch.manual_seed(0)
    return Classifier(Config(), make)


def data(seed: int) -> list[dict[str, Tensor]]:
    return [{"x": x, "labels": label} for x, label in zip(*rows(seed, count=ROWS), strict=True)]


def trainer(folder: Path, model: Classifier, epochs: int = 2, **options: Any) -> Trainer:
    return Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=8,
            eval_strategy="epoch",
            save_strategy="epoch",
            learning_rate=0.1,
            lr_scheduler_type="constant",
            optim="sgd",
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=data(0),
        eval_dataset=data(1),
        **options,
    )


def label_count(epochs: int) -> Tensor:
    return epochs * rows(0, count=ROWS)[1].bincount(minlength=CLASSES).double()


@two_criteria
def test_evaluation_each_epoch_counts_nothing_and_resuming_goes_on(make: Make, tmp_path: Path) -> None:
    straight, resumed = made(make), made(make)
    trainer(tmp_path / "straight", straight).train()
    checkpoint = tmp_path / "straight" / f"checkpoint-{ROWS // 8}"
    trainer(tmp_path / "resumed", resumed).train(resume_from_checkpoint=str(checkpoint))
    assert_same_state(straight, resumed)
    if (count := straight.state_dict().get("criterion.class_count")) is not None:
        assert torch.equal(count, label_count(epochs=2))


@two_criteria
def test_a_criterion_outside_of_the_model_counts_training_rows_alone(make: Make, tmp_path: Path) -> None:
    """compute_loss_func is called in evaluation too, and nobody puts the criterion into evaluation mode."""
    criterion = make()

    def loss(outputs: dict[str, Tensor], labels: Tensor, num_items_in_batch: Any = None) -> Tensor:  # noqa: ARG001
        return criterion(outputs["logits"], labels)

    outside, inside = made(None), made(make)
    trainer(tmp_path / "outside", outside, compute_loss_func=loss).train()
    trainer(tmp_path / "inside", inside).train()
    assert_same_state(criterion, inside.criterion)
    assert torch.equal(outside.network[0].weight, inside.network[0].weight)


@every_criterion
def test_from_pretrained_takes_a_checkpoint_with_its_state(make: Make, tmp_path: Path) -> None:
    before = made(make)
    before(*rows(0))["loss"].backward()  # a step
    before.save_pretrained(tmp_path / "saved")
    assert_same_state(before, Classifier.from_pretrained(tmp_path / "saved", make=make))


@stateful_criteria
def test_from_pretrained_of_a_checkpoint_made_before_the_swap_has_counted_nothing(make: Make, tmp_path: Path) -> None:
    before = made(nn.CrossEntropyLoss)
    before.save_pretrained(tmp_path)
    litter = [torch.full((n,), 7.0, dtype=torch.float64) for n in range(1, 40) for _ in range(20)]
    del litter  # memory as it happens to be
    after = Classifier.from_pretrained(tmp_path, make=make)
    assert torch.equal(after.network[0].weight, before.network[0].weight)
    assert_same_state(after.criterion, make())


def test_from_pretrained_does_not_make_up_a_prior_that_it_has_lost(tmp_path: Path) -> None:
    """transformers makes the model on the meta device, where numbers have no values."""
    made(nn.CrossEntropyLoss).save_pretrained(tmp_path)
    after = Classifier.from_pretrained(tmp_path, make=CRITERIA["weighted"])
    with pytest.raises(ValueError, match=r"(prior|weight) must be"):
        after(*rows(0))
