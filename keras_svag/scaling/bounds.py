"""How far a run can be scaled: necessary conditions and equilibrium.

q = N / G is the noise-to-signal ratio of a run with batch size B, learning
rate η and weight decay λ; u = ηλ; κ is the factor on the batch size; C is how
close two runs are asked to be: the ratios of their equilibrium R (squared
weight norm), G and N all within [1/C, C]. The bounds are *necessary*
conditions: they rule a scaling out, and never in.

References:
- [L21] Li, Malladi, Arora, On the Validity of Modeling SGD with Stochastic
  Differential Equations, NeurIPS 2021, arXiv 2102.12470.
"""

import math

import numpy as np

from keras_svag.arguments import (
    checked_closeness,
    checked_positive,
    is_number,
)
from keras_svag.scaling.rules import (
    decay_per_step,
    decay_ratio,
)


def min_noise_to_signal(closeness, learning_rate=None, weight_decay=None):
    """Least N / G with which SGD can be C-close to its SDE.

    `1 / (C² - 1)` ([L21], section 5), or with the learning rate and weight
    decay `1 / (C² (1 - u/2) - 1)` (derived: SGD balances (2 - u) λ R with
    η (G + N), its SDE 2 λ R with η N); infinite where no N / G is enough.

    Args:
        closeness: C, above 1.
        learning_rate, weight_decay: η and λ, or None.

    Returns:
        A float, possibly `inf`.

    Raises:
        ValueError: If an argument is out of range.
    """
    closeness = checked_closeness(closeness)
    decay = decay_per_step(learning_rate, weight_decay)
    excess = closeness**2 * (1 - decay / 2) - 1
    return 1 / excess if excess > 0 else math.inf


def max_batch_multiplier(
    noise_to_signal,
    closeness,
    learning_rate=None,
    weight_decay=None,
    form="sharp",
):
    """Largest κ that the linear scaling condition does not rule out.

    `"sharp"` (derived: equilibrium of both runs, all three C-closeness ratios
    used) is `(2 C² (1+q) - q (2-u)) / ((2-u) + C² u (1+q))`, which is
    `C² + (C² - 1) q` without weight decay; `"loose"` is the form of [L21],
    section 5: `C² (1+q)`. κ_max · B is the largest batch size that is not
    ruled out.

    Args:
        noise_to_signal: q, at least 0, a number or array; `inf` is allowed,
            NaN stays NaN.
        closeness: C, above 1.
        learning_rate, weight_decay: η and λ of the baseline; None means that
            their product is negligible. The loose form ignores them.
        form: `"sharp"` or `"loose"`.

    Returns:
        κ_max, at least 1: a float, or an array like `noise_to_signal`.

    Raises:
        ValueError: If an argument is out of range.
    """
    q = _checked_noise_to_signal(noise_to_signal)
    square = checked_closeness(closeness) ** 2
    decay = decay_per_step(learning_rate, weight_decay)
    if form == "loose":
        return _like(noise_to_signal, square * (1 + q))
    if form != "sharp":
        raise ValueError(f"`form` must be 'sharp' or 'loose', got {form!r}.")
    # Numerator and denominator over 1 + q, so that q = inf is no special case.
    signal_share = 1 / (1 + q)
    numerator = 2 * square - (1 - signal_share) * (2 - decay)
    with np.errstate(divide="ignore"):
        bound = numerator / ((2 - decay) * signal_share + square * decay)
    # Rounding must not rule out the run itself.
    return _like(noise_to_signal, np.maximum(bound, 1.0))


def min_scaled_noise_to_signal(
    kappa, closeness, learning_rate=None, weight_decay=None
):
    """Least N' / G' of the run at κB, κη that is C-close to the one at B, η.

    `(1 - C²ρ/κ) / (C²ρ - 1)` with `ρ = (2 - κu) / (2 - u)` (derived, the same
    condition seen from the large run).

    Args:
        kappa: κ, at least 1.
        closeness: C, above 1.
        learning_rate, weight_decay: η and λ of the *baseline*, or None.

    Returns:
        A float of at least 0; `inf` where no N' / G' is enough.

    Raises:
        ValueError: If an argument is out of range.
    """
    if not (is_number(kappa) and 1 <= kappa < math.inf):
        raise ValueError(
            f"`kappa` must be a finite number of at least 1, got {kappa!r}."
        )
    square = checked_closeness(closeness) ** 2
    rho = decay_ratio(kappa, decay_per_step(learning_rate, weight_decay))
    if square * rho >= kappa:
        return 0.0
    if square * rho <= 1:
        return math.inf
    return (1 - square * rho / kappa) / (square * rho - 1)


def weight_norm_growth(
    noise_to_signal, kappa, learning_rate=None, weight_decay=None
):
    """Predicted R' / R of the run at κB, κη over the one at B, η.

    `√((κ + q) / (ρ (1 + q)))` with `ρ = (2 - κu) / (2 - u)`, if the loss is
    scale-invariant and its gradient statistics on the unit sphere do not
    change (derived: G and N go with 1/R, so equilibrium fixes R²).

    Args:
        noise_to_signal: q of the baseline, at least 0, a number or array.
        kappa: κ, above 0.
        learning_rate, weight_decay: η and λ of the baseline, or None.

    Returns:
        A float, or an array like `noise_to_signal`.

    Raises:
        ValueError: If an argument is out of range.
    """
    q = _checked_noise_to_signal(noise_to_signal)
    kappa = checked_positive("kappa", kappa)
    rho = decay_ratio(kappa, decay_per_step(learning_rate, weight_decay))
    # (κ + q) / (1 + q), which is 1 at q = inf.
    growth = 1 + (kappa - 1) / (1 + q)
    return _like(noise_to_signal, np.sqrt(growth / rho))


def balance(
    process,
    weight_sq_norm,
    grad_sq_norm,
    noise_trace,
    learning_rate,
    weight_decay,
    ell=1,
):
    """How far a scale-invariant run is from equilibrium: 1 is there.

    Left over right side of the process's identity (derived: at stationarity
    E|x|² stands still, and ⟨x, g⟩ = 0):

    | process | identity |
    |---|---|
    | `"sgd"`, `"ngd"` | (2 - u) λ R = η (G + N) |
    | `"svag"` | (2 - u/ell) λ R = η (N + G/ell) |
    | `"sde"` | 2 λ R = η N |

    Give averages over a window. Above 1, the weights are still too large.

    Args:
        process: `"sgd"`, `"ngd"`, `"svag"` or `"sde"`.
        weight_sq_norm: R, of the decayed weights.
        grad_sq_norm, noise_trace: G, and N at the batch size of the run.
        learning_rate, weight_decay: η and λ, above 0.
        ell: Amplification, for `"svag"`.

    Returns:
        A float, or an array like `weight_sq_norm`.

    Raises:
        ValueError: If an argument is out of range.
    """
    name = str(process).lower()
    if name not in ("sgd", "ngd", "svag", "sde"):
        raise ValueError(
            f"`process` must be one of sgd, ngd, svag, sde, got {process!r}."
        )
    if not (is_number(ell) and ell >= 1):
        raise ValueError(f"`ell` must be a number of at least 1, got {ell!r}.")
    rate = checked_positive("learning_rate", learning_rate)
    decay = checked_positive("weight_decay", weight_decay)
    decay_per_step(rate, decay)
    # The signal's share is that of the squared step, 1 / ell; the SDE's is 0.
    share = {"svag": 1 / ell, "sde": 0.0}.get(name, 1.0)
    r, g, n = (
        _checked_array(*named)
        for named in (
            ("weight_sq_norm", weight_sq_norm),
            ("grad_sq_norm", grad_sq_norm),
            ("noise_trace", noise_trace),
        )
    )
    left = (2 - rate * decay * share) * decay * r
    right = rate * (n + share * g)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _like(weight_sq_norm, left / right)


def _like(argument, result):
    return float(result) if np.ndim(argument) == 0 else np.asarray(result)


def _checked_noise_to_signal(noise_to_signal):
    q = _checked_array("noise_to_signal", noise_to_signal)
    if np.any(q < 0):
        raise ValueError(
            f"`noise_to_signal` must be at least 0, got {noise_to_signal!r}: "
            "a negative measured ratio means that G is not told apart from 0."
        )
    return q


def _checked_array(name, values):
    try:
        array = np.asarray(values)
        if array.dtype.kind in "iuf":
            return array.astype(np.float64)
    except ValueError:  # The rows of a nested list differ in their lengths.
        pass
    raise ValueError(
        f"`{name}` must be a number or an array of numbers, got {values!r}."
    )
