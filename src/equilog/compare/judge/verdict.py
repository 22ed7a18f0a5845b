"""The verdict in words: which contender served, what it costs, and whether chance could have done it."""

from collections.abc import Iterable, Mapping

from equilog.compare.judge.choice import Versus
from equilog.compare.judge.chosen_metric import metric_named
from equilog.compare.judge.metrics import METRICS
from equilog.compare.judge.ranking import excludes_zero, gain, is_ours, is_seen, ranked
from equilog.compare.judge.records import Cost, Difference, Interval

LISTED = 3
"""So many of the contenders that also did better, or worse, are named."""

MATERIAL = 0.01
"""From this much on a metric between 0 and 1 that is given up is named even where chance could have done it."""


def verdict(
    metric: str,
    baseline: str,
    losses: Mapping[str, Mapping[str, Interval]],
    differences: Mapping[str, Difference],
    versus: Versus,
) -> str:
    """Return what the comparison shows in a few sentences of plain text.

    A contender is called better or worse than the baseline where the p-value of its paired difference in the main
    metric is below 0.05 after Holm's correction over all that are compared, so that picking the best of many is
    allowed for. Costs are told without correction: a cost is named rather too often than too seldom.

    Args:
        metric: the main metric.
        baseline: the contender compared with.
        losses: what each contender reached, by metric.
        differences: each contender's paired difference from the baseline in the main metric.
        versus: paired difference between any two contenders in any metric.
    """
    name = metric_named(metric).phrase
    if baseline not in losses:
        return f"No verdict: {baseline}, the one to compare with, has no finished run."
    if not differences:
        return f"No verdict: only {baseline} has finished runs, so there is nothing to compare it with."
    order = [loss for loss in ranked(losses, metric) if loss in differences]
    first = order[0]
    splits = max(len(difference["runs"]) for difference in differences.values())
    if splits == 1:
        said = [
            f"One split cannot tell a difference from chance. On it {first} has {name} "
            f"{losses[first][metric]['mean']:.3f}, {_against(baseline, metric, differences[first])}.",
            _costs(metric, baseline, first, losses, versus),
            "Repeat with more seeds before you believe it.",
        ]
        return " ".join(said)
    seen = [loss for loss in order if is_seen(differences[loss])]
    better = [loss for loss in seen if gain(metric, differences[loss]["mean"]) > 0]
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
            f"{f'{baseline} was not beaten' if worse else 'No difference seen'}: none has {name} better than "
            f"{baseline}'s {losses[baseline][metric]['mean']:.3f} by more than chance explains.",
            f"The nearest is {first}, {_against(baseline, metric, differences[first])}.",
            _promising(metric, order, differences),
        ]
    if worse:
        said.append(f"Worse than {baseline}: {_first_of(worse[::-1], differences)}.")
    said.append(_ours_against_others(metric, baseline, order, better, versus))
    said.append(f"Judged over {splits} splits, with Holm's correction for {counted(len(differences), 'comparison')}.")
    return " ".join(sentence for sentence in said if sentence)


def _promising(metric: str, order: Iterable[str], differences: Mapping[str, Difference]) -> str:
    """Return what to say of contenders that only the correction for their number keeps from being called better."""
    alone = [loss for loss in order if excludes_zero(differences[loss]) and gain(metric, differences[loss]["mean"]) > 0]
    if not alone:
        return ""
    others = f" and so would {counted(len(alone) - 1, 'other')}" if alone[1:] else ""
    return f"Had it been the only comparison {alone[0]} would count as better{others}: more seeds could settle it."


def _against(other: str, metric: str, difference: Interval) -> str:
    better = gain(metric, difference["mean"])
    if abs(better) < 5e-4:
        return f"level with {other}"
    words = f"{abs(better):.3f} {'worse' if better < 0 else 'better'} than {other}"
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


def given_up(
    main: str, baseline: str, name: str, losses: Mapping[str, Mapping[str, Interval]], versus: Versus
) -> list[Cost]:
    """Return the metrics in which a contender is worse than the baseline.

    Those whose interval leaves out 0, without correction; of metrics between 0 and 1 also those that lose `MATERIAL`
    or more, since few splits would let much go unsaid.

    Args:
        main: the metric that decides, which is not among them.
        baseline: what the contender is compared with.
        name: the contender.
        losses: what each contender reached, by metric.
        versus: paired difference between any two contenders in any metric.
    """
    costs: list[Cost] = []
    for metric in losses[name]:
        difference = versus(name, baseline, metric) if name != baseline else None
        if metric == main or difference is None or not METRICS[metric].shown:
            continue
        lost = -gain(metric, difference["mean"])
        if lost > 0 and (excludes_zero(difference) or (METRICS[metric].limits == (0.0, 1.0) and lost >= MATERIAL)):
            reached = losses[name][metric]["mean"]
            costs.append({"metric": metric, "baseline_mean": reached - difference["mean"], **difference})
    return costs


def _costs(main: str, baseline: str, best: str, losses: Mapping[str, Mapping[str, Interval]], versus: Versus) -> str:
    costs = given_up(main, baseline, best, losses, versus)
    if not costs:
        return "No cost is seen in the other metrics."
    return f"It costs: {'; '.join(map(_cost, costs))}."


def _cost(cost: Cost) -> str:
    words = (
        f"{METRICS[cost['metric']].phrase} {cost['baseline_mean']:.3f} to {cost['baseline_mean'] + cost['mean']:.3f}, "
        f"{abs(cost['mean']):.3f} worse"
    )
    if cost["ci95"] is not None:
        low, high = sorted(end * (1 if cost["mean"] > 0 else -1) for end in cost["ci95"])
        words += f" (95 % interval {low:.3f} to {high:.3f})"
    return words


def _ours_against_others(metric: str, baseline: str, order: list[str], better: list[str], versus: Versus) -> str:
    ours = [loss for loss in order if is_ours(loss)]
    others = [loss for loss in order if not is_ours(loss)]
    if not ours:
        return ""
    said = [] if any(is_ours(loss) for loss in better) else [f"None of ours is seen to be better than {baseline}."]
    difference = versus(ours[0], others[0], metric) if others else None
    if difference is not None:
        against = _against(others[0], metric, difference)
        chance = "" if excludes_zero(difference) or against.startswith("level") else "; that could be chance"
        said.append(f"Of ours {ours[0]} is the best; it is {against}, the best of the others{chance}.")
    return " ".join(said)
