r"""What trained logits say: probabilities and decisions.

Training lets the scores of features x settle where, with $p = \mathrm{softmax}(\text{scale} \cdot z)$ and $O_j$ what
the *other* sets of a pool add to class j's odds,

$$ \mathrm{P}(j \mid x) \cdot \mathrm{E}\Bigl[\frac{1}{1 + O_j\, p_j(x)}\Bigr] \;\propto\; p_j(x). $$

A set alone in its pool has $O = 0$: the posterior is $\mathrm{softmax}(z)$, as for cross-entropy. In a large pool it is
$p_j^2 O_j$: $\mathrm{softmax}(2z)$ with the class mass put back. Everything in between is the same formula. (Set the
expected gradient at x to zero: a set of class j carries cross-entropy's gradient times $1/(1 + O_j p_j)$.)

Inner "nll" has $1/(1 + O_j - \log p_j)$ in its place: $p_j (1 - \log p_j)$ alone, and $p_j (1 + O_j)$ in a large pool.
Inner "divergence" answers the posterior itself, softmax(z), in a large pool whatever $O$ is, and approximately in a
small one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equilog.core.grouping import LogTerms
from equilog.core.inner import INNERS, Inner
from equilog.core.pools import as_pools
from equilog.inputs.classes import classes_last, classes_second
from equilog.inputs.options import InnerName, Options, check_choice
from equilog.inputs.values import class_vector
from equilog.ops import as_compute_dtype, log_one_plus

Kind = Literal["balanced", "posterior"]
"""Which probabilities: as the loss decides ("balanced") or of the data as drawn ("posterior")."""

_QUANTILES = 64
_SETS_DRAWN = 2**20
_NUMBERS_DRAWN = 2**22
"""As many sets, and as many sums of classes, are drawn in all, which takes a moment and some megabytes."""
_KNOTS = 48


def check_kind(where: str, kind: str) -> None:
    """Raise ValueError unless `kind` is one of `Kind`."""
    if kind not in ("balanced", "posterior"):
        raise ValueError(f'{where}: kind must be "balanced" or "posterior"; got {kind!r}.')


def check_temperature(where: str, temperature: float) -> None:
    """Raise ValueError unless the temperature is positive."""
    if not temperature > 0:
        raise ValueError(f"{where}: temperature must be positive; got {temperature}.")


class Calibration(nn.Module):
    r"""Probabilities and decisions of a model's logits: what `criterion.calibrate(logits, target)` returns.

    A loss that adds a prior to the logits, weights the classes or couples the rows moves what the bare logits mean.
    Here that is undone: `scores` are such that their softmax (sigmoid for yes/no labels) is the probability. Without
    parameters; the buffers have fixed shapes and are saved and loaded as any module's are. It can be exported with the
    model.
    """

    multilabel: bool
    """Whether the entries of a row of logits are separate yes/no labels rather than one choice."""
    temperature: Tensor
    """0-d, what the scores are divided by: 1, or what `fit_temperature` has found."""

    def __init__(self, multilabel: bool) -> None:
        super().__init__()
        self.multilabel = multilabel
        self.register_buffer("temperature", torch.ones(()))

    def raw_scores(self, logits: Tensor, kind: Kind) -> Tensor:
        """Return the scores at temperature 1."""
        raise NotImplementedError

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return scores of the logits' shape (N, C, ...) whose softmax (or sigmoid) is the probability of this kind.

        Raises:
            ValueError: an unknown kind.
            RuntimeError: the posterior is asked for and not known; says what to call.
        """
        check_kind(type(self).__name__, kind)
        scores = self.raw_scores(logits, kind)
        return scores / self.temperature.to(scores)

    def probabilities(self, logits: Tensor, kind: Kind = "balanced", temperature: float = 1.0) -> Tensor:
        """Return probabilities of the logits' shape: softmax over dimension 1, or sigmoid for yes/no labels.

        `temperature` divides the scores once more; above 1 it makes the probabilities less sure and never changes which
        class comes first.
        """
        check_temperature(type(self).__name__, temperature)
        scores = self.scores(logits, kind) / temperature
        return scores.sigmoid() if self.multilabel else scores.softmax(-1 if scores.dim() == 1 else 1)

    def predict(self, logits: Tensor, metric: Any = None) -> Tensor:
        """Return the class index with the largest balanced score (N, ...), or 0/1 for each yes/no label.

        With a `metric` (a name, a cost matrix or a function, as of `equilog.decisions.DecisionRule`, which needs the
        sklearn extra) the decisions are those that are best for it by the posterior of these rows, taken together.
        """
        if metric is not None:
            from equilog.decisions import DecisionRule

            posterior = self.probabilities(logits.detach(), "posterior")
            rows = posterior if self.multilabel else classes_last(posterior)
            table = rows.reshape(-1, rows.shape[-1])
            labels: Tensor = DecisionRule(metric, multilabel=self.multilabel).fit(table).predict(table)
            return labels.reshape(rows.shape if self.multilabel else rows.shape[:-1])
        scores = self.scores(logits)
        if self.multilabel:
            return (scores > 0).to(torch.int64)
        return scores.argmax(-1 if scores.dim() == 1 else 1)

    def forward(self, logits: Tensor) -> Tensor:
        """Return the balanced probabilities, for export."""
        return self.probabilities(logits)

    @torch.no_grad()
    def fit_temperature(
        self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, kind: Kind = "posterior"
    ) -> float:
        r"""Divide the scores by the temperature that makes held-out targets likeliest, and return it.

        It minimises $\sum_i v_i \, (-\log p_T(y_i \mid x_i)) + (\log_2 T)^2 / 2$. The last term is a normal prior with
        a factor of two as its standard deviation: without it a few rows, all classified rightly, would drive T to 0.

        Args:
            logits: (N, C) of rows that the model was not trained on.
            target: (N,) class indices, or probabilities or yes/no labels (N, C).
            sample_weight: (N,) weight of each row.
            kind: the probabilities to fit; which class comes first does not depend on it.
        """
        scores = self.raw_scores(logits, kind)
        temperature = likeliest_temperature([(scores, target, self.multilabel)], sample_weight)
        self.temperature.fill_(temperature)
        return temperature


class PooledCalibration(Calibration):
    """The calibration of a loss whose sets share logs.

    Args:
        factor: the balanced scores are scale * factor * logits, where `taken_off` is None.
        scale: the loss's.
        shift: (C,) what the loss adds to the logits, prior_strength * log prior; or None.
        correction: what is added to the log-probabilities for the posterior; None where they are multiplied by
            `factor`.
        offset: (C,) what is added to the posterior scores at last, such as minus the log class weight; or None.
        taken_off: (C,) the balanced scores are the posterior's less this; None where they are the logits times
            `factor`.
        knows_posterior: where not, to ask for the posterior raises.
        multilabel: as of `Calibration`.
    """

    shift: Tensor | None
    offset: Tensor | None
    taken_off: Tensor | None

    def __init__(
        self,
        *,
        factor: float,
        scale: float = 1.0,
        shift: Tensor | None = None,
        correction: "Correction | None" = None,
        offset: Tensor | None = None,
        taken_off: Tensor | None = None,
        knows_posterior: bool = True,
        multilabel: bool = False,
    ) -> None:
        super().__init__(multilabel)
        self.factor = factor
        self.scale = scale
        self.knows_posterior = knows_posterior
        self.correction = correction
        self.register_buffer("shift", shift)
        self.register_buffer("offset", offset)
        self.register_buffer("taken_off", taken_off)
        # The same numbers once more, so that a state_dict holds all there is.
        told = [factor, scale, float(knows_posterior), float(multilabel)]
        self.register_buffer("numbers", torch.tensor(told, dtype=torch.float64))

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> "PooledCalibration":
        """Return the calibration that this is the `state_dict` of."""
        factor, scale, knows_posterior, multilabel = state["numbers"].tolist()
        tables = {name.removeprefix("correction."): table for name, table in state.items() if "correction." in name}
        calibration = cls(
            factor=factor,
            scale=scale,
            **{name: state[name].clone() if name in state else None for name in ("shift", "offset", "taken_off")},
            correction=Correction(**tables) if tables else None,
            knows_posterior=bool(knows_posterior),
            multilabel=bool(multilabel),
        )
        calibration.load_state_dict(state)
        return calibration

    def raw_scores(self, logits: Tensor, kind: Kind) -> Tensor:
        """Return the scores at temperature 1."""
        rows = as_compute_dtype(logits if self.multilabel else classes_last(logits))
        if kind == "balanced" and self.taken_off is None:
            scores = self.factor * self.scale * rows
        else:
            scores, offset = self._posterior(rows), self.offset
            if kind == "balanced":
                assert self.taken_off is not None
                offset = -self.taken_off
            scores = scores if offset is None else scores + offset.to(scores)
        return scores if self.multilabel else classes_second(scores, logits)

    def extra_repr(self) -> str:
        """Show the factor."""
        return f"factor={self.factor:.4g}, scale={self.scale:.4g}, multilabel={self.multilabel}"

    def _posterior(self, rows: Tensor) -> Tensor:
        if not self.knows_posterior:
            raise RuntimeError(
                "The posterior depends on what the sets of a pool add up to, which only trained logits tell. Call "
                "calibration = criterion.calibrate(logits, target) with those of the training rows, and then "
                'calibration.probabilities(logits, "posterior").'
            )
        rows = self.scale * (rows if self.shift is None else rows + self.shift.to(rows))
        scores = rows if self.multilabel else rows.log_softmax(-1)
        return self.factor * scores if self.correction is None else scores + self.correction(scores)


class Correction(nn.Module):
    """What the other sets of a pool make of a class's score: a smooth function of it, in one pass over the scores.

    It is an average over draws of pools, kept as its values and slopes at equally spaced knots: between them the cubic
    that has both, outside the line that goes on at the end.

    Args:
        low: (C,) the first knot.
        step: (C,) the distance of the knots.
        values: (K, C) the function at the knots.
        slopes: (K, C) its slopes there.
        of_log_one_less: 0-d bool: the knots are equally spaced in log(1 - score), else in the score.
    """

    low: Tensor
    step: Tensor
    values: Tensor
    slopes: Tensor
    of_log_one_less: Tensor

    def __init__(self, low: Tensor, step: Tensor, values: Tensor, slopes: Tensor, of_log_one_less: Tensor) -> None:
        super().__init__()
        self._coordinate = torch.log1p if bool(of_log_one_less) else None
        for name, table in {"low": low, "step": step, "values": values, "slopes": slopes}.items():
            self.register_buffer(name, table.clone())
        self.register_buffer("of_log_one_less", of_log_one_less.clone())

    @classmethod
    def of(
        cls, function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, *, of_log_one_less: bool = False
    ) -> "Correction":
        """Return the correction that is this function of the coordinate x (K, C), each value of its own x alone.

        Flat beyond the knots, unless it is one of log(1 - score), of which none is below the first.
        """
        x = low + torch.linspace(0, 1, _KNOTS, dtype=low.dtype, device=low.device)[:, None] * (high - low)
        with torch.enable_grad():
            x.requires_grad_()
            values = function(x)
            (slopes,) = torch.autograd.grad(values.sum(), x)
        if not of_log_one_less:
            slopes[0] = slopes[-1] = 0.0
        return cls(low, (high - low) / (_KNOTS - 1), values.detach(), slopes, torch.tensor(of_log_one_less))

    def forward(self, scores: Tensor) -> Tensor:
        """Return the function of scores (..., C), or of scores of any shape where it is one for all."""
        low, step, values, slopes = (part.to(scores) for part in (self.low, self.step, self.values, self.slopes))
        x = scores if self._coordinate is None else self._coordinate(-scores)
        place = (x - low) / step
        last = len(values) - 1
        inside = place.clamp(0, last)
        knot = inside.detach().clamp(max=last - 1).long()
        t = inside - knot
        of_class = torch.arange(len(low), device=low.device) if len(low) > 1 else 0
        left, right = values[knot, of_class], values[knot + 1, of_class]
        out, into = slopes[knot, of_class] * step, slopes[knot + 1, of_class] * step
        change = right - left
        cubic = left + t * (out + t * ((3 * change - 2 * out - into) + t * (out + into - 2 * change)))
        # A class left out has score -inf, and minus it in the other coordinate.
        over = torch.where(place.isfinite(), place - inside, 0.0)
        return cubic + over * into


def probabilities(
    logits: Tensor,
    *,
    inner: InnerName = "odds",
    scale: float = 1.0,
    pool_size: float | None = None,
    temperature: float = 1.0,
    log_class_mass: Tensor | None = None,
    prior: Any = None,
    prior_strength: float = 1.0,
    kind: Kind = "balanced",
) -> Tensor:
    r"""Probabilities of scores trained with `log_balanced_cross_entropy`.

    "balanced" is what the bare scores say, softmax(factor * logits), as if every class were equally frequent.
    "posterior" puts the prior and the class mass A back, which gives the probabilities of the data as drawn:
    $\mathrm{P}(j \mid x) \propto p_j^2 A_j$ for an unbounded pool, $p_j (1 + O_j p_j)$ with $O_j = (A_j - 1) (1 -
    1/\text{pool\_size})$ for a bounded one, where $p = \mathrm{softmax}(\text{scale} \cdot (\text{logits} +
    \text{prior\_strength} \log \text{prior}))$. For inner "nll" it is $p_j A_j$ and $p_j (1 + O_j - \log p_j)$; for
    "divergence", $p_j$, which holds in large pools and nearly in small ones.

    Args:
        logits: (N, C), (N, C, d1, ...) or (C,), the bare scores.
        inner: the loss's.
        scale: the loss's.
        pool_size: sets that shared a log in training; None for so many that one set's own odds do not count. The
            factor is scale for 1, 2 scale for None, and (2 - 1/pool_size) scale where nothing else is known; for an
            inner term "nll" or "divergence" it is scale.
        temperature: divides the scores before they are normalised; fit it on held-out data.
        log_class_mass: (C,) log A of such a pool, or None for the same mass in every class.
        prior: the loss's, (C,) or None.
        prior_strength: the loss's.
        kind: "balanced" or "posterior".

    Returns:
        Probabilities of the shape of `logits`, summing to 1 over the classes; float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError: kind, pool_size, temperature or prior of the wrong type, shape or range.

    Example:
        >>> logits = torch.tensor([0.5, -0.5])
        >>> probabilities(logits, pool_size=1)  # softmax(logits)
        tensor([0.7311, 0.2689])
        >>> probabilities(logits, log_class_mass=torch.tensor([1.0, 3.0]).log(), kind="posterior")  # e^2 : 3
        tensor([0.7112, 0.2888])
    """
    check_kind("probabilities", kind)
    check_choice("probabilities", "inner", inner, tuple(INNERS))
    if pool_size is not None and not pool_size >= 1:
        raise ValueError(f"probabilities: pool_size must be at least 1, or None for unbounded; got {pool_size}.")
    check_temperature("probabilities", temperature)
    rows = as_compute_dtype(classes_last(logits))
    if kind == "posterior" and prior is not None:
        like = rows.reshape(-1, rows.shape[-1])
        prior = class_vector("probabilities", "prior", prior, like, positive=True, validate=False)
        rows = rows + prior_strength * prior.log()
    scores, term = scale * rows, INNERS[inner]
    if pool_size == 1 and log_class_mass is None:
        log_class_mass = rows.new_zeros(rows.shape[-1])  # no other sets, so no mass of theirs
    if kind == "balanced" or log_class_mass is None or term.separate:
        scores = (2.0 - 1.0 / pool_size if pool_size is not None and not term.gentle else term.index_factor) * scores
    elif pool_size is None:
        scores = term.index_factor * scores + log_class_mass.to(rows)
    else:
        others = torch.expm1(log_class_mass.to(rows)) * (1.0 - 1.0 / pool_size)
        scores = posterior_scores(scores.log_softmax(-1), others.log(), term)
    return classes_second((scores / temperature).softmax(-1), logits)


def likeliest_temperature(columns: Sequence[tuple[Tensor, Tensor, bool]], sample_weight: Tensor | None) -> float:
    """Return the one temperature that makes the targets of all columns likeliest, as `Calibration.fit_temperature`.

    Args:
        columns: of each, scores (N, C), target and whether these are yes/no labels.
        sample_weight: (N,) weight of each row, or None.
    """
    log_temperature, low, high = 0.0, math.log(_LOWEST), math.log(_HIGHEST)
    for _ in range(40):
        slope, curvature = _slope_and_curvature(columns, sample_weight, log_temperature)
        slope += log_temperature / math.log(2) ** 2
        curvature += 1 / math.log(2) ** 2
        low, high = (low, log_temperature) if slope > 0 else (log_temperature, high)
        step = log_temperature - slope / curvature if curvature > 0 else math.nan
        # Newton's step where it stays between the bounds known so far, else half of these.
        following = step if low < step < high else (low + high) / 2
        if abs(following - log_temperature) < 1e-7:
            break
        log_temperature = following
    return math.exp(log_temperature)


_LOWEST, _HIGHEST = 0.05, 20.0


def _slope_and_curvature(
    columns: Sequence[tuple[Tensor, Tensor, bool]], sample_weight: Tensor | None, log_temperature: float
) -> tuple[float, float]:
    """Return the derivatives of the summed negative log-likelihood along the log of the temperature."""
    slope = curvature = 0.0
    for scores, target, multilabel in columns:
        z = scores.double() / math.exp(log_temperature)
        if multilabel:
            p = z.sigmoid()
            first = (z * (target.to(z) - p)).sum(1)
            spread = (z * z * p * (1 - p)).sum(1)
        else:
            shifted = z - z.detach().amax(1, keepdim=True).nan_to_num()
            p = shifted.softmax(1)
            usable = torch.where(p > 0, shifted, 0.0)  # a class left out has score -inf and probability 0
            mean = (p * usable).sum(1)
            if target.is_floating_point():
                seen = (target.to(z) * usable).sum(1) - (target.to(z).sum(1) - 1) * mean
            else:
                seen = usable.gather(1, target[:, None]).squeeze(1)
            first = seen - mean
            spread = (p * usable * usable).sum(1) - mean * mean
        weight = 1.0 if sample_weight is None else sample_weight.to(z)
        # With b = 1/T and d/d log T = -b d/db: the slope is first, the curvature spread - first.
        slope += float((weight * first).sum())
        curvature += float((weight * (spread - first)).sum())
    return slope, curvature


def log_mean_share(log_share: Callable[[Tensor, Tensor], Tensor], log_prob: Tensor, log_others: Tensor) -> Tensor:
    """Return log E[share] (..., C) from log p (..., C) and draws of log O, (C,) or (K, C): a draw at a time."""
    draws = log_others.reshape(-1, *[1] * (log_prob.dim() - 1), log_prob.shape[-1])
    # K copies of the scores at once would be the largest tensor in the program.
    total = log_prob.new_full(log_prob.shape, -math.inf)
    for draw in draws:
        total = torch.logaddexp(total, log_share(log_prob, draw))
    return total - math.log(len(draws))


def posterior_scores(log_prob: Tensor, log_others: Tensor, inner: Inner = INNERS["odds"]) -> Tensor:
    """Return log p - log E[share] from log p (..., C) and draws of log O, (C,) or (K, C)."""
    return log_prob - log_mean_share(inner.log_share, log_prob, log_others)


def label_posterior_scores(logits: Tensor, log_others: Tensor) -> Tensor:
    """Return the log odds of a label's posterior from scaled logits x and draws (K, 2) of log O.

    P(yes) e^{-x} E[1 / (1 + O+ + e^{-x})] = P(no) e^{x} E[1 / (1 + O- + e^{x})], O+ and O- being what the other labels
    of a pool add to the positives' and the negatives' log.
    """
    kept_yes = kept_no = logits.new_full(logits.shape, -math.inf)
    for yes, no in log_one_plus(log_others):
        kept_yes = torch.logaddexp(kept_yes, -torch.logaddexp(yes, -logits))
        kept_no = torch.logaddexp(kept_no, -torch.logaddexp(no, logits))
    return 2.0 * logits + kept_no - kept_yes


def class_correction(inner: Inner, log_others: Tensor) -> Correction | None:
    """Return what is added to log-probabilities for the posterior, from draws of log O (K, C); None where it is 0."""
    if inner.separate or (not inner.gentle and bool((log_others == -math.inf).all())):
        return None
    most = log_others.nan_to_num(neginf=0.0, posinf=0.0).amax(0).clamp(min=0.0)

    def function(x: Tensor) -> Tensor:
        log_prob = -torch.expm1(x) if inner.name == "nll" else x
        return -log_mean_share(inner.log_share, log_prob, log_others)

    if inner.name == "nll":  # log(O - log p + 1) is smooth in log(1 - log p)
        return Correction.of(function, torch.zeros_like(most), most + _MARGIN, of_log_one_less=True)
    return Correction.of(function, -most - _MARGIN, torch.zeros_like(most))


_MARGIN = 9.0
"""So far beyond the class mass nothing of it is seen: a part in ten thousand."""


def label_correction(log_others: Tensor) -> Correction:
    """Return what is added to scaled logits for the posterior of labels, from draws of log O (K, 2): one for all."""
    most = log_one_plus(log_others).nan_to_num(posinf=0.0).amax(0) + _MARGIN
    return Correction.of(lambda x: label_posterior_scores(x, log_others) - x, -most[:1], most[1:])


def draw_pools(terms: LogTerms, log_weight: Tensor, sets: int) -> Tensor:
    """Return log O (K, G) of random pools of that many sets: K quantiles for each group, each as likely as the others.

    Thousands of pools are drawn, since a rare class is in few of them; their quantiles say the same in less space. The
    generator is one of its own (seed 0).
    """
    groups = terms.slots * terms.values.shape[1]
    if sets < 1 or len(log_weight) == 0:
        return terms.values.new_full((1, groups), -math.inf)
    per_quantile = min(max(_SETS_DRAWN // (sets * _QUANTILES), 1), max(_NUMBERS_DRAWN // (groups * _QUANTILES), 1), 64)
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(len(log_weight), (_QUANTILES * per_quantile * sets,), generator=generator)
    index = index.to(log_weight.device)
    slot = None if terms.slot is None else terms.slot[index]
    pools = as_pools(Options(where="draw_pools", pool=sets), index.shape, index.device)
    drawn = LogTerms(terms.values[index], slot, terms.slots).pooled(pools, log_weight[index])
    # A copy: a view would keep all the draws, and be summed in another order than what is loaded from a file.
    return drawn.sort(0).values[per_quantile // 2 :: per_quantile].contiguous()
