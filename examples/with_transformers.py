"""transformers.Trainer: padded tokens, gradient accumulation, several processes, and soft labels.

python examples/with_transformers.py                                   # tag tokens; padding is ignored
python examples/with_transformers.py --task distillation               # learn a teacher's probabilities
torchrun --nproc-per-node 2 examples/with_transformers.py              # the same weights in the end

The model is built from a configuration and the sentences are drawn, so nothing is downloaded. Over several processes
give each as many rows a step as the one process's batch divided by their number.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    Trainer,
    TrainingArguments,
)

from equilog import Accumulation, LogBalancedCrossEntropyLoss

WORDS, TAGS, TEMPERATURE = 50, 5, 2.0
Call = Callable[[torch.nn.Module, Any, dict[str, torch.Tensor]], torch.Tensor]


class BalancedTrainer(Trainer):
    """A Trainer whose steps are those of one large batch, however many micro-batches and ranks share it.

    The criterion becomes part of the model, so that it moves to the model's device and is saved in checkpoints.
    `call(model, loss, inputs)` is one micro-batch's loss.
    """

    def __init__(self, *args: Any, criterion: LogBalancedCrossEntropyLoss, call: Call, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model.criterion = criterion
        self.call = call
        # Trainer divides each loss by the number of micro-batches of the step: None makes up for it.
        self.step = Accumulation(criterion, model=self.model, loss_scale=None)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """Take a step's micro-batches from the loader, and their class mass before the first is trained on."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if samples:
            self.model.train()
            self.step.gather(partial(self.call, self.model), [self._prepare_inputs(sample) for sample in samples])
        return samples, None  # the number of tokens, with which Trainer would divide, is no matter here

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,  # noqa: ARG002
    ) -> Any:
        """Return the micro-batch's share of the step's loss, or in evaluation the loss of the batch alone."""
        if model.training:
            return self.step.part(partial(self.call, model), inputs)
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        loss = self.model.criterion(outputs.logits.movedim(-1, 1), inputs["labels"])
        return (loss, outputs) if return_outputs else loss


def tag_tokens(model: torch.nn.Module, loss: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of (sentences, tags, tokens) logits; padding has the tag -100."""
    outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    return loss(outputs.logits.movedim(-1, 1), inputs["labels"])


def distil(model: torch.nn.Module, loss: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss against a teacher's probabilities."""
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    return loss(logits, (inputs["labels"] / TEMPERATURE).softmax(-1))


def sentences(count: int = 96) -> list[dict[str, list[int]]]:
    """Draw sentences of 3 to 12 words, of which few are not tagged 0."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 13, (count,), generator=generator).tolist()
    drawn = [torch.randint(1, WORDS, (length,), generator=generator) for length in lengths]
    return [
        {"input_ids": words.tolist(), "labels": torch.where(words < 10, words % TAGS, 0).tolist()} for words in drawn
    ]


def padded(rows: list[dict[str, Any]], soft: bool) -> dict[str, torch.Tensor]:
    """Put the sentences of a micro-batch side by side."""
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    words = [torch.tensor(row["input_ids"]) for row in rows]
    batch = {"input_ids": pad(words), "attention_mask": pad([torch.ones_like(row) for row in words])}
    if soft:  # a made-up teacher: logits by how often each tag's words occur
        batch["labels"] = torch.stack([torch.bincount(row % TAGS, minlength=TAGS).float() for row in words])
    else:
        batch["labels"] = pad([torch.tensor(row["labels"]) for row in rows], padding_value=-100)
    return batch


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--task", choices=["tokens", "distillation"], default="tokens")
    arguments.add_argument("--batch-size", type=int, default=4, help="sentences of a micro-batch")
    arguments.add_argument("--micro-batches", type=int, default=3, help="of a step, in each process")
    arguments.add_argument("--pool", choices=["batch", "stream"], default="batch", help="which sets share a log")
    arguments.add_argument("--output", default="trained", help="folder for checkpoints and weights")
    arguments.add_argument("--save-steps", type=int, default=0, help="steps from one checkpoint to the next")
    arguments.add_argument("--resume", help="checkpoint to go on from")
    options = arguments.parse_args()
    soft = options.task == "distillation"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=TAGS,
        hidden_dropout_prob=0.0,  # each process draws its own dropout; without it the weights can be compared
        attention_probs_dropout_prob=0.0,
    )
    trainer = BalancedTrainer(
        model=(BertForSequenceClassification if soft else BertForTokenClassification)(config),
        args=TrainingArguments(
            output_dir=options.output,
            per_device_train_batch_size=options.batch_size,
            gradient_accumulation_steps=options.micro_batches,
            num_train_epochs=1,
            learning_rate=0.5,
            lr_scheduler_type="constant",
            optim="sgd",
            logging_steps=1,
            save_strategy="steps" if options.save_steps else "no",
            save_steps=options.save_steps or 1,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=not torch.cuda.is_available(),
            ddp_find_unused_parameters=False,
        ),
        train_dataset=sentences(),
        data_collator=partial(padded, soft=soft),
        criterion=LogBalancedCrossEntropyLoss(
            num_classes=TAGS, pool=options.pool, prior=None if soft else "auto", process_group="world"
        ),
        call=distil if soft else tag_tokens,
    )
    trainer.train(resume_from_checkpoint=options.resume)
    trainer.save_model(options.output)


if __name__ == "__main__":
    main()
