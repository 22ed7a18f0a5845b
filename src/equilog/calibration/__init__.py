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

from equilog.calibration.base import Calibration
from equilog.calibration.probabilities import probabilities

__all__ = ["Calibration", "probabilities"]
