"""The verdict in words: which loss served, what it costs, and whether chance could have done it."""

from collections.abc import Callable, Iterable, Mapping

from equilog.compare.judge.metrics import METRICS
from equilog.compare.judge.ranking import is_ours, is_seen, ranked
from equilog.compare.judge.records import Difference, Interval

Versus = Callable[[str, str, str], Interval | None]
"""(loss, other loss, metric) -> paired difference of the first from the second over the splits both have, if any."""

LISTED = 3
"""So many of the losses that also did better are named; those that did worse all are."""


def verdict(
    metric: str,
    baseline: str,
    losses: Mapping[str, Mapping[str, Interval]],
    differences: Mapping[str, Difference],
    versus: Versus,
) -> str:
    """Return what the comparison shows in a few sentences of plain text.

    A loss is called better or worse than the baseline where the p-value of its paired difference in the main
    metric is below 0.05 after Holm's correction over all losses compared, so that picking the best of many is
    allowed for. Costs are told without correction: a cost is named rather too often than too seldom.

    Args:
        metric: the main metric.
        baseline: the loss compared with.
        losses: what each loss reached, by metric.
        differences: each loss's paired difference from the baseline in the main metric.
        versus: paired difference between any two losses in any metric.
    """
    name = METRICS[metric].phrase
    if baseline not in losses:
        return f"No verdict: {baseline}, the loss to compare with, has no finished run."
    if not differences:
        return f"No verdict: only {baseline} has finished runs, so there is nothing to compare it with."
    order = [loss for loss in ranked(losses, metric) if loss in differences]
    first = order[0]
    splits = max(len(difference["runs"]) for difference in differences.values())
    if splits == 1:
        return (
            f"One split cannot tell a difference from chance. On it {first} has {name} "
            f"{losses[first][metric]['mean']:.3f}, {_against(baseline, metric, differences[first])}. "
            "Repeat with more seeds before you believe it."
        )
    seen = [loss for loss in order if is_seen(differences[loss])]
    better = [loss for loss in seen if _gain(metric, differences[loss]["mean"]) > 0]
    worse = [loss for loss in seen if loss not in better]
    if better:
        best = better[0]
        said = [
            f"{best} served best: {name} {losses[best][metric]['mean']:.3f}, "
            f"{_against(baseline, metric, differences[best])}.",
            _costs(metric, baseline, best, losses, versus),
            f"{first} came out higher still, but that could be chance." if first != best else "",
            f"Better than {baseline} too: {_first_of(better[1:], differences)}." if better[1:] else "",
        ]
    else:
        said = [
            f"{f'{baseline} was not beaten' if worse else 'No difference seen'}: no loss has {name} better than "
            f"{baseline}'s {losses[baseline][metric]['mean']:.3f} by more than chance explains.",
            f"The nearest is {first}, {_against(baseline, metric, differences[first])}.",
            _promising(metric, order, differences),
        ]
    if worse:
        said.append(f"Worse than {baseline}: {_listed(worse, differences)}.")
    said.append(_ours_against_others(metric, baseline, order, better, versus))
    said.append(f"Judged over {splits} splits, with Holm's correction for {counted(len(differences), 'comparison')}.")
    return " ".join(sentence for sentence in said if sentence)


def _promising(metric: str, order: Iterable[str], differences: Mapping[str, Difference]) -> str:
    """Return what to say of losses that only the correction for their number keeps from being called better."""
    alone = [
        loss for loss in order if _excludes_zero(differences[loss]) and _gain(metric, differences[loss]["mean"]) > 0
    ]
    if not alone:
        return ""
    others = f" and so would {counted(len(alone) - 1, 'other')}" if alone[1:] else ""
    return f"Had it been the only comparison {alone[0]} would count as better{others}: more seeds could settle it."


def _gain(metric: str, difference: float) -> float:
    """Return a difference so that more is better."""
    return difference if METRICS[metric].larger_is_better else -difference


def _against(other: str, metric: str, difference: Interval) -> str:
    gain = _gain(metric, difference["mean"])
    if abs(gain) < 5e-4:
        return f"level with {other}"
    words = f"{abs(gain):.3f} {'worse' if gain < 0 else 'better'} than {other}"
    if difference["ci95"] is None:
        return words
    low, high = sorted(end * (1 if difference["mean"] > 0 else -1) for end in difference["ci95"])
    return f"{words} (95 % interval {low:.3f} to {high:.3f})"


def _listed(losses: Iterable[str], differences: Mapping[str, Interval]) -> str:
    return ", ".join(f"{loss} by {abs(differences[loss]['mean']):.3f}" for loss in losses)


def _first_of(losses: list[str], differences: Mapping[str, Interval]) -> str:
    if len(losses) <= LISTED + 1:
        return _listed(losses, differences)
    return f"{_listed(losses[:LISTED], differences)} and {len(losses) - LISTED} others"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _excludes_zero(interval: Interval) -> bool:
    return interval["ci95"] is not None and (interval["ci95"][0] > 0 or interval["ci95"][1] < 0)


def _costs(main: str, baseline: str, best: str, losses: Mapping[str, Mapping[str, Interval]], versus: Versus) -> str:
    costs = []
    for metric in losses[best]:
        difference = versus(best, baseline, metric)
        if metric == main or difference is None or not _excludes_zero(difference):
            continue
        if _gain(metric, difference["mean"]) < 0:
            value = losses[best][metric]["mean"]
            costs.append(f"{METRICS[metric].phrase} {value:.3f}, {abs(difference['mean']):.3f} worse")
    return f"It costs: {'; '.join(costs)}." if costs else "No cost is seen in the other metrics."


def _ours_against_others(metric: str, baseline: str, order: list[str], better: list[str], versus: Versus) -> str:
    ours = [loss for loss in order if is_ours(loss)]
    others = [loss for loss in order if not is_ours(loss)]
    if not ours:
        return ""
    said = [] if any(is_ours(loss) for loss in better) else [f"None of ours is seen to be better than {baseline}."]
    difference = versus(ours[0], others[0], metric) if others else None
    if difference is not None:
        against = _against(others[0], metric, difference)
        chance = "" if _excludes_zero(difference) or against.startswith("level") else "; that could be chance"
        said.append(f"Of ours {ours[0]} is the best; it is {against}, the best of the others{chance}.")
    return " ".join(said)
