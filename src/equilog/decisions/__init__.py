"""From the probabilities of any classifier to decisions: for a metric, for costs, for other class frequencies."""

try:
    from equilog.decisions.crossfit import DecisionReport
    from equilog.decisions.prior_shift import PriorEstimate, adapt, estimate_prior, undo_sampling
    from equilog.decisions.rule import DecisionRule
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("scipy", "numpy"):
        raise
    raise ModuleNotFoundError(
        f'equilog.decisions needs {error.name}, which is not installed: pip install "equilog[sklearn]".',
        name=error.name,
    ) from error

__all__ = ["DecisionReport", "DecisionRule", "PriorEstimate", "adapt", "estimate_prior", "undo_sampling"]
