"""Bad arguments are told before anything is computed: the function, the argument, what was expected, what came."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from equilog import (
    LogBalancedCrossEntropyLoss,
    MultiLabelCrossEntropyLoss,
    log_balanced_cross_entropy,
    multilabel_cross_entropy,
    probabilities,
)

LOGITS = torch.zeros(6, 4)
INDEX = torch.tensor([0, 1, 2, 3, 0, 1])
SOFT = torch.full((6, 4), 0.25)


def balanced(logits: Any = LOGITS, target: Any = INDEX, **options: Any) -> Tensor:
    return log_balanced_cross_entropy(logits, target, **options)


def labels(logits: Any = LOGITS, target: Any = SOFT, **options: Any) -> Tensor:
    return multilabel_cross_entropy(logits, target, **options)


nan_at = torch.zeros(6, 4).index_put((torch.tensor(2), torch.tensor(1)), torch.tensor(torch.nan))

# What each call is, the error it raises, and what its text must say besides the function's name.
BALANCED: list[tuple[str, dict[str, Any], type[Exception], tuple[str, ...]]] = [
    ("logits not a tensor", {"logits": [[0.0, 1.0]]}, TypeError, ("logits and target", "list", "torch.as_tensor")),
    ("target not a tensor", {"target": [0] * 6}, TypeError, ("logits and target", "list", "torch.as_tensor")),
    ("integer logits", {"logits": LOGITS.long()}, TypeError, ("logits", "int64", "logits.float()")),
    ("a number", {"logits": torch.tensor(1.0)}, ValueError, ("logits", "(N, C, ...)", "single number")),
    ("no class", {"logits": torch.zeros(6, 0)}, ValueError, ("logits", "at least one class", "(6, 0)")),
    ("target too long", {"target": torch.zeros(7).long()}, ValueError, ("target", "(6,)", "(6, 4)", "got (7,)")),
    ("float indices", {"target": INDEX.float()}, ValueError, ("target", "(6,)", "float32", "target.long()")),
    ("integer one-hot", {"target": SOFT.long()}, ValueError, ("target", "int64", "target.float()")),
    ("class 9", {"target": INDEX.clone().fill_(9)}, ValueError, ("target", "class 9", "4 classes", "ignore_index")),
    ("balance", {"balance": "rows"}, ValueError, ("balance", '"class", "pair", "none"', "(4,)", "'rows'")),
    ("inner", {"inner": "logit"}, ValueError, ("inner", "'odds', 'nll', 'divergence'", "'logit'")),
    ("nll of pairs", {"inner": "nll", "balance": "pair"}, ValueError, ("inner 'nll'", 'balance "class"', "'pair'")),
    ("blocks of nll", {"inner": "nll", "balance": INDEX[:4]}, ValueError, ("inner 'nll'", "blocks of classes")),
    ("blocks too few", {"balance": torch.zeros(3).long()}, ValueError, ("balance", "(4,) integers", "got (3,)")),
    ("float blocks", {"balance": torch.zeros(4)}, ValueError, ("balance", "integers", "float32")),
    ("pool 0", {"pool": 0}, ValueError, ("pool", '"sample", "batch"', ">= 1", "got 0")),
    ("pool true", {"pool": True}, ValueError, ("pool", "got True")),
    ("pool word", {"pool": "row"}, ValueError, ("pool", "'row'")),
    ("float ids", {"pool": torch.zeros(6)}, TypeError, ("pool", "integers", "float32", "pool.long()")),
    ("too few ids", {"pool": torch.zeros(5).long()}, ValueError, ("pool", "(6,)", "got (5,)")),
    ("negative ids", {"pool": -INDEX}, ValueError, ("pool", "0 or more", "-3")),
    ("compensation", {"compensation": "rows"}, ValueError, ("compensation", "'weight', 'offset', None", "'rows'")),
    ("scale 0", {"scale": 0.0}, ValueError, ("scale", "positive finite", "got 0.0")),
    ("scale nan", {"scale": float("nan")}, ValueError, ("scale", "got nan")),
    ("names", {"prior": {"cat": 1, "dog": 1}}, ValueError, ("keys of prior", "class indices 0 to 1", "cat")),
    ("short dict", {"prior": {0: 1, 1: 1}}, ValueError, ("prior", "(4,)", "got (2,)")),
    ("prior a word", {"prior": "auto"}, TypeError, ("prior", "a tensor, an array, a list", "got str")),
    ("short list", {"prior": [1, 1, 1]}, ValueError, ("prior", "(4,)", "got (3,)")),
    ("weight a set", {"weight": {1.0, 2.0}}, TypeError, ("weight", "a tensor, an array, a list", "got set")),
    ("scale a tensor", {"scale": torch.ones(1)}, TypeError, ("scale", "gradient", "logits * scale")),
    ("prior too short", {"prior": torch.ones(3)}, ValueError, ("prior", "(4,)", "got (3,)")),
    ("prior 0", {"prior": torch.tensor([1.0, 0, 1, 1])}, ValueError, ("prior", "positive", "small count", "0.0")),
    ("count 0", {"prior": torch.tensor([5, 0, 1, 1])}, ValueError, ("prior", "positive", "[5.0, 0.0, 1.0, 1.0]")),
    ("prior too small", {"prior": torch.tensor([1, 1e-300, 1, 1]).double()}, ValueError, ("prior", "positive")),
    ("prior nan", {"prior": torch.tensor([1.0, torch.nan, 1, 1])}, ValueError, ("prior", "positive", "nan")),
    ("weight too long", {"weight": torch.ones(5)}, ValueError, ("weight", "(4,)", "got (5,)")),
    ("weight negative", {"weight": torch.tensor([1.0, -1, 1, 1])}, ValueError, ("weight", "0 or more", "-1.0")),
    ("weight of one log", {"weight": torch.ones(4), "balance": "none"}, ValueError, ("weight", "sample_weight")),
    ("weight of blocks", {"weight": torch.ones(4), "balance": torch.tensor([0, 0, 1, 1])}, ValueError, ("weight",)),
    ("sample_weight a list", {"sample_weight": [1.0] * 6}, TypeError, ("sample_weight", "list", "torch.as_tensor")),
    ("sample_weight shape", {"sample_weight": torch.ones(4)}, ValueError, ("sample_weight", "(6,)", "got (4,)")),
    ("smoothing 1", {"label_smoothing": 1.0}, ValueError, ("label_smoothing", "[0, 1)", "got 1.0")),
    ("smoothing -1", {"label_smoothing": -0.1}, ValueError, ("label_smoothing", "got -0.1")),
    ("reduction", {"reduction": "avg"}, ValueError, ("reduction", "'mean', 'sum', 'none'", "'avg'")),
    ("nan", {"logits": nan_at, "validate": True}, ValueError, ("logits", "NaN", "-inf")),
    ("inf", {"logits": LOGITS + torch.inf, "validate": True}, ValueError, ("logits", "+inf")),
    ("sum", {"target": 2 * SOFT, "validate": True}, ValueError, ("target", "sum to 1", "sums to 2", "Divide")),
    ("negative", {"target": SOFT - 0.5, "validate": True}, ValueError, ("target", "negative")),
    ("nan target", {"target": SOFT * torch.nan, "validate": True}, ValueError, ("target", "NaN")),
    (
        "negative sample_weight",
        {"sample_weight": torch.tensor([1.0, 1, 1, 1, -1, 1]), "validate": True},
        ValueError,
        ("sample_weight", "negative"),
    ),
    (
        "excluded",
        {"logits": torch.tensor([-torch.inf, 0, 0, 0]).expand(6, 4), "validate": True},
        ValueError,
        ("target", "-inf", "infinite"),
    ),
    (
        "excluded soft",
        {"logits": torch.tensor([-torch.inf, 0, 0, 0]).expand(6, 4), "target": SOFT, "validate": True},
        ValueError,
        ("target", "-inf", "infinite"),
    ),
]

LABELS: list[tuple[str, dict[str, Any], type[Exception], tuple[str, ...]]] = [
    ("target a list", {"target": [0]}, TypeError, ("logits and target", "list", "torch.as_tensor")),
    ("integer logits", {"logits": LOGITS.long()}, TypeError, ("logits", "int64", "logits.float()")),
    ("a number", {"logits": torch.tensor(1.0), "target": torch.tensor(1.0)}, ValueError, ("target", "shape of logits")),
    ("target shape", {"target": INDEX}, ValueError, ("target", "shape of logits", "(6, 4)", "got (6,)")),
    ("indices", {"target": 2 * SOFT.new_ones(6, 4).long()}, ValueError, ("integer targets", "0 or 1")),
    ("mask dtype", {"mask": torch.ones(6, 4)}, TypeError, ("mask", "bool", "float32")),
    ("mask a list", {"mask": [True] * 6}, TypeError, ("mask", "bool", "list")),
    ("mask shape", {"mask": torch.ones(3, 4) > 0}, ValueError, ("mask", "broadcast", "(6, 4)", "got (3, 4)")),
    ("weight a list", {"weight": [1.0] * 4}, TypeError, ("weight", "list", "torch.as_tensor")),
    ("weight shape", {"weight": torch.ones(6)}, ValueError, ("weight", "broadcast", "(6, 4)", "got (6,)")),
    ("sample_weight", {"sample_weight": torch.ones(4)}, ValueError, ("sample_weight", "(6, 4)", "(6,)", "got (4,)")),
    ("pos_weight", {"pos_weight": torch.ones(4)}, ValueError, ("pos_weight", "one number", "(4,)", "Use weight")),
    ("negative pos_weight", {"pos_weight": -2.0}, ValueError, ("pos_weight", "0 or more", "-2.0")),
    ("pool", {"pool": "row"}, ValueError, ("pool", '"label"', "'row'")),
    ("inner", {"inner": "logit"}, ValueError, ("inner", "'odds', 'nll', 'divergence', 'power'", "'logit'")),
    ("prior shape", {"prior": [0.1, 0.2]}, ValueError, ("prior", "(4,), one value a label", "got (2,)")),
    ("prior counts", {"prior": [9, 1, 2, 3]}, ValueError, ("prior", "less than 1", "Divide counts", "[9.0, 1.0,")),
    ("prior 0", {"prior": [0.0, 0.1, 0.2, 0.3]}, ValueError, ("prior", "positive (give a label", "every label")),
    ("scale", {"scale": -1.0}, ValueError, ("scale", "got -1.0")),
    ("reduction", {"reduction": "avg"}, ValueError, ("reduction", "'avg'")),
    ("target 2", {"target": SOFT + 2, "validate": True}, ValueError, ("target", "[0, 1]")),
    ("target nan", {"target": SOFT * torch.nan, "validate": True}, ValueError, ("target", "NaN")),
    ("logits nan", {"logits": nan_at, "validate": True}, ValueError, ("logits", "NaN")),
    (
        "negative weight",
        {"weight": -torch.ones(4), "validate": True},
        ValueError,
        ("weight and sample_weight", "negative"),
    ),
]


def check(call: Callable[..., Tensor], arguments: dict[str, Any], error: type[Exception], says: tuple[str, ...]) -> str:
    with pytest.raises(error) as raised:
        call(**arguments)
    text = str(raised.value)
    for part in says:
        assert part in text, text
    return text


@pytest.mark.parametrize(("what", "arguments", "error", "says"), BALANCED, ids=[each[0] for each in BALANCED])
def test_errors_of_the_balanced_loss(
    what: str, arguments: dict[str, Any], error: type[Exception], says: tuple[str, ...]
) -> None:
    text = check(balanced, arguments, error, says)
    assert text.startswith("log_balanced_cross_entropy: "), what
    assert text.endswith("."), what


@pytest.mark.parametrize(("what", "arguments", "error", "says"), LABELS, ids=[each[0] for each in LABELS])
def test_errors_of_the_multilabel_loss(
    what: str, arguments: dict[str, Any], error: type[Exception], says: tuple[str, ...]
) -> None:
    text = check(labels, arguments, error, says)
    assert text.startswith("multilabel_cross_entropy: "), what
    assert text.endswith("."), what


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: LogBalancedCrossEntropyLoss(prior="counted"), ValueError, ("prior", '"auto"', "'counted'")),
        (lambda: LogBalancedCrossEntropyLoss(prior="auto"), ValueError, ("prior", "num_classes", "got None")),
        (lambda: LogBalancedCrossEntropyLoss(pool="stream"), ValueError, ("stream", "num_classes", "got None")),
        (lambda: LogBalancedCrossEntropyLoss(0), ValueError, ("num_classes", "at least 1", "got 0")),
        (lambda: LogBalancedCrossEntropyLoss(prior={1, 2}), TypeError, ("prior", "got set")),
        (lambda: LogBalancedCrossEntropyLoss(4, weight=[1.0, 2.0]), ValueError, ("weight", "(4,)", "got (2,)")),
        (lambda: LogBalancedCrossEntropyLoss(smoothing=0.1), TypeError, ("no option", "label_smoothing")),
        (lambda: MultiLabelCrossEntropyLoss(pos_weigth=2.0), TypeError, ("no option", "pos_weigth")),
        (lambda: MultiLabelCrossEntropyLoss(prior="counted"), ValueError, ("prior", "(L,)", '"auto"', "'counted'")),
        (lambda: MultiLabelCrossEntropyLoss(3, prior=[0.5]), ValueError, ("prior", "(3,)", "got (1,)")),
        (lambda: MultiLabelCrossEntropyLoss(prior=[0.5, 7.0]), ValueError, ("prior", "less than 1", "7.0")),
        (lambda: MultiLabelCrossEntropyLoss(inner="logit"), ValueError, ("inner", "'logit'")),
        (lambda: MultiLabelCrossEntropyLoss(0), ValueError, ("num_labels", "at least 1", "got 0")),
        (lambda: LogBalancedCrossEntropyLoss().calibrate(LOGITS, INDEX), ValueError, ("calibrate", "pool_size=")),
        (lambda: MultiLabelCrossEntropyLoss(pool="batch").calibrate(LOGITS, SOFT), ValueError, ("pool_size=",)),
        (lambda: MultiLabelCrossEntropyLoss(pool="label").calibrate(LOGITS, SOFT), ValueError, ("pool_size=",)),
        (lambda: LogBalancedCrossEntropyLoss(momentum=1.0), ValueError, ("momentum", "[0, 1)", "1.0")),
        (lambda: LogBalancedCrossEntropyLoss(pool=0)(LOGITS, INDEX), ValueError, ("pool", "got 0")),
        (lambda: LogBalancedCrossEntropyLoss(scale=0.0)(LOGITS, INDEX), ValueError, ("scale", "got 0.0")),
        (lambda: LogBalancedCrossEntropyLoss().probabilities(LOGITS, "odds"), ValueError, ("kind", "'odds'")),
        (lambda: LogBalancedCrossEntropyLoss(reduction="avg")(LOGITS, INDEX), ValueError, ("reduction", "'avg'")),
        (lambda: MultiLabelCrossEntropyLoss(reduction="avg")(LOGITS, SOFT), ValueError, ("reduction", "'avg'")),
        (lambda: MultiLabelCrossEntropyLoss()(LOGITS, INDEX), ValueError, ("target", "(6, 4)", "got (6,)")),
        (lambda: probabilities(LOGITS, kind="odds"), ValueError, ("kind", "'odds'")),
        (lambda: probabilities(LOGITS, inner="logit"), ValueError, ("inner", "'odds', 'nll', 'divergence'", "'logit'")),
        (
            lambda: LogBalancedCrossEntropyLoss(inner="nll", balance="none")(LOGITS, INDEX),
            ValueError,
            ("inner", "none"),
        ),
        (lambda: LogBalancedCrossEntropyLoss(inner="nll", balance=INDEX[:4]), ValueError, ("inner", "blocks")),
        (lambda: probabilities(LOGITS, pool_size=0.5), ValueError, ("pool_size", "at least 1", "0.5")),
        (lambda: probabilities(LOGITS, temperature=0.0), ValueError, ("temperature", "positive", "0.0")),
        (lambda: probabilities(LOGITS, prior=torch.ones(3), kind="posterior"), ValueError, ("prior", "(4,)", "(3,)")),
    ],
)
def test_errors_of_modules_and_probabilities(
    make: Callable[[], Any], error: type[Exception], says: tuple[str, ...]
) -> None:
    text = check(make, {}, error, says)
    assert text.split(":")[0].split(".")[0] in (
        "LogBalancedCrossEntropyLoss",
        "MultiLabelCrossEntropyLoss",
        "PooledCalibration",
        "probabilities",
    )


def test_another_number_of_classes_is_refused_by_a_running_prior() -> None:
    criterion = LogBalancedCrossEntropyLoss(4, prior="auto")
    with pytest.raises(ValueError, match=r"^LogBalancedCrossEntropyLoss: .*counts 4 classes, but logits have 5"):
        criterion(torch.zeros(6, 5, requires_grad=True), INDEX)
    assert criterion.class_count.tolist() == [0, 0, 0, 0]


def test_bad_calls_count_nothing() -> None:
    criterion = LogBalancedCrossEntropyLoss(4, prior="auto", pool="stream")
    with pytest.raises(ValueError, match="target holds class 4"):
        criterion(LOGITS.clone().requires_grad_(), INDEX + 1)
    assert criterion.class_count.tolist() == [0, 0, 0, 0]
    assert not criterion.stream.any()
