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

from keras_svag import arguments
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
        TypeError: If an argument is no number.
        ValueError: If one is out of range.
    """
    square = checked_closeness(closeness) ** 2
    decay = decay_per_step(learning_rate, weight_decay)
    excess = square * (1 - decay / 2) - 1
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
        TypeError: If an argument is no number.
        ValueError: If one is out of range.
    """
    q = _checked_noise_to_signal(noise_to_signal)
    square = checked_closeness(closeness) ** 2
    decay = decay_per_step(learning_rate, weight_decay)
    if arguments.choice("form", form, ("sharp", "loose")) == "loose":
        return _like(noise_to_signal, square * (1 + q))
    # Numerator and denominator over 1 + q, so that q = inf is no special case.
    signal_share = 1 / (1 + q)
    numerator = 2 * square - (1 - signal_share) * (2 - decay)
    with np.errstate(divide="ignore"):
        bound = numerator / ((2 - decay) * signal_share + square * decay)
    # Rounding must not rule out the run itself.
    return _like(noise_to_signal, np.maximum(bound, 1.0))


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
        TypeError: If an argument is no number.
        ValueError: If one is out of range.
    """
    q = _checked_noise_to_signal(noise_to_signal)
    arguments.number("kappa", kappa, above=0)
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
        TypeError: If an argument is no number.
        ValueError: If one is out of range.
    """
    if isinstance(process, str):
        process = process.lower()
    arguments.choice("process", process, ("sgd", "ngd", "svag", "sde"))
    arguments.number("ell", ell, least=1)
    rate = arguments.number("learning_rate", learning_rate, above=0)
    decay = arguments.number("weight_decay", weight_decay, above=0)
    decay_per_step(rate, decay)
    # The signal's share is that of the squared step, 1 / ell; the SDE's is 0.
    share = {"svag": 1 / ell, "sde": 0.0}.get(process, 1.0)
    r, g, n = (
        np.asarray(values, np.float64)
        for values in (weight_sq_norm, grad_sq_norm, noise_trace)
    )
    left = (2 - rate * decay * share) * decay * r
    right = rate * (n + share * g)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _like(weight_sq_norm, left / right)


def checked_closeness(closeness):
    """C, if it is a finite number above 1."""
    return arguments.number(
        "closeness", closeness, above=1, remedy="2**0.5 is usual"
    )


def _like(argument, result):
    return float(result) if np.ndim(argument) == 0 else np.asarray(result)


def _checked_noise_to_signal(noise_to_signal):
    q = np.asarray(noise_to_signal, np.float64)
    if np.any(q < 0):
        raise ValueError(
            arguments.refusal(
                "noise_to_signal",
                "at least 0",
                noise_to_signal,
                "a negative measured ratio means that G is not told apart "
                "from 0",
            )
        )
    return q
