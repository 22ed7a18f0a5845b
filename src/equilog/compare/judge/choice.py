"""Which contender to save: the simplest of those that are not seen to be worse than the best."""

from collections.abc import Callable, Mapping

from equilog.compare.judge.chosen_metric import metric_named
from equilog.compare.judge.ranking import excludes_zero, gain, is_seen, ranked
from equilog.compare.judge.records import Choice, Difference, Interval

Versus = Callable[[str, str, str], Interval | None]
"""(contender, another, metric) -> paired difference of the first from the second over the splits both have, if any."""

Complexity = tuple[int, int]


def choice(
    metric: str,
    baseline: str,
    losses: Mapping[str, Mapping[str, Interval]],
    differences: Mapping[str, Difference],
    versus: Versus,
    complexity: Mapping[str, Complexity],
    unstorable: Mapping[str, str],
) -> Choice:
    """Return the contender to save.

    The baseline, unless some contender is seen to be better, by the rule of the verdict. Then the simplest of those
    that are, but for those that the best of them is better than by a paired 95 % interval that leaves out 0; of equally
    simple ones the best. That interval is of one comparison: what the correction for many would let pass is left out.
    Only contenders that have finished every split are considered.

    Args:
        metric: the metric that decides.
        baseline: the contender that the others are compared with.
        losses: what each contender reached, by metric.
        differences: each contender's paired difference from the baseline.
        versus: paired difference between any two contenders in any metric.
        complexity: how much there is to a contender, the least first; one that is not named comes last.
        unstorable: the contenders that cannot be saved so that loading runs no code, and why.
    """
    splits = max(len(reached[metric]["runs"]) for reached in losses.values())
    whole = [name for name in ranked(losses, metric) if len(losses[name][metric]["runs"]) == splits]
    title = metric_named(metric).phrase
    better = [
        name
        for name in whole
        if name in differences and is_seen(differences[name]) and gain(metric, differences[name]["mean"]) > 0
    ]
    if not better and baseline in whole:
        return {
            "name": baseline,
            "best": baseline,
            "reason": f"the baseline, since no other is seen to be better in {title}",
        }
    pool = better or whole
    best = pool[0]

    def worse(name: str) -> bool:
        difference = versus(best, name, metric)
        return difference is not None and excludes_zero(difference)

    level = [name for name in pool if name == best or not worse(name)]
    kept = [name for name in level if name not in unstorable]
    beside = f"; {best} cannot be saved: {unstorable[best]}" if best in unstorable else ""
    if not kept:
        chosen = next((name for name in [*pool, *whole] if name not in unstorable), best)
        return {"name": chosen, "best": best, "reason": f"the best that can be saved{beside}"}
    last = max(complexity.values(), default=(0, 0))
    chosen = min(kept, key=lambda name: (complexity.get(name, last), level.index(name)))
    of_those = f" of those seen to be better than {baseline}" if better else ""
    reason = (
        f"the best in {title}{of_those}"
        if chosen == best
        else f"the simplest of {len(level)} that are not seen to be worse in {title} than the best{of_those}, {best}"
    )
    return {"name": chosen, "best": best, "reason": reason + beside}
