"""How far a run can be scaled: necessary conditions and equilibrium.

q = N / G is the noise-to-signal ratio of the measured run, SGD or SVAG with
amplification ell, with batch size B, learning rate η and weight decay λ;
u = ηλ; κ is the factor on the batch size; C is how close two runs are asked to
be: the ratios of their equilibrium R (squared weight norm), G and N all within
[1/C, C]. The bounds are *necessary* conditions: they rule a scaling out, and
never in.

The other run is always SGD at κB and κη, in equilibrium. The measured one may
be off: its balance b is left over right side of its identity
(`equilibrium_balance`). Putting both identities together (derived, section
5 of docs/theory.md), the runs are C-close only if

    1/C² <= (κ + q) / (b ρ (q + 1/ell)) <= C²  with  ρ = (2 - κu) / (2 - u/ell)

The right side bounds κ from above, and the left side from below.

References:
- [L21] Li, Malladi, Arora, On the Validity of Modeling SGD with Stochastic
  Differential Equations, NeurIPS 2021, arXiv 2102.12470.
"""

import math
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_svag import arguments
from keras_svag.scaling.rules import decay_per_step

# A number gives a number, an array an array.
FloatOrArray = TypeVar("FloatOrArray", float, NDArray[Any])


def min_noise_to_signal(
    closeness: float,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    ell: float = 1,
) -> float:
    """Least N / G with which SGD, or SVAG, can be C-close to its SDE.

    `1 / (C² - 1)` for SGD ([L21], section 5), or with the learning rate and
    weight decay `1 / (C² (1 - u/2) - 1)` (derived: SGD balances (2 - u) λ R
    with η (G + N), its SDE 2 λ R with η N); infinite where no N / G is enough.
    SVAG takes steps of η/ell with the signal's share 1/ell:
    `(1/ell) / (C² (1 - u/(2 ell)) - 1)` (derived).

    Args:
        closeness: C, above 1.
        learning_rate, weight_decay: η and λ, or None.
        ell: SVAG's amplification; 1 is SGD.

    Returns:
        A float, possibly `inf`.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If one is out of range.
    """
    square = checked_closeness(closeness) ** 2
    decay = decay_per_step(learning_rate, weight_decay)
    arguments.number("ell", ell, least=1)
    excess = square * (1 - decay / ell / 2) - 1
    return 1 / ell / excess if excess > 0 else math.inf


def max_batch_multiplier(
    noise_to_signal: FloatOrArray,
    closeness: float,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    form: Literal["sharp", "loose"] = "sharp",
    ell: float = 1,
    balance: float = 1.0,
) -> FloatOrArray:
    """Largest κ that the linear scaling condition does not rule out.

    For SGD at (κB, κη) against the measured run at (B, η): SGD itself, or SVAG
    with `ell`, whose N / G is another one. `"sharp"` (derived: equilibrium of
    both runs, all three C-closeness ratios used) is
    `(2a - q) / (1 + a u)` with `a = C² b (q + 1/ell) / (2 - u/ell)`, which is
    `C² + (C² - 1) q` for SGD without weight decay. `"loose"` is the form of
    [L21], section 5, `C² (1 + q)`, for SVAG `C² (1/ell + q)` (derived).
    κ_max · B is the largest batch size that is not ruled out. From an SVAG run
    it may be below B: then SGD at B itself is not close to it.

    Args:
        noise_to_signal: q, at least 0, a number or array; `inf` is allowed,
            NaN stays NaN.
        closeness: C, above 1.
        learning_rate, weight_decay: η and λ of the baseline; None means that
            their product is negligible. The loose form ignores them.
        form: `"sharp"` or `"loose"`.
        ell: SVAG's amplification in the measured run; 1 is SGD.
        balance: b, above 0; 1 takes the measured run as at equilibrium. The
            loose form ignores it.

    Returns:
        κ_max, at least 1 for SGD at equilibrium, and at least 0: a float, or
        an array like `noise_to_signal`.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If one is out of range.
    """
    square = checked_closeness(closeness) ** 2
    q, u = _checked(noise_to_signal, learning_rate, weight_decay, ell, balance)
    if arguments.choice("form", form, ("sharp", "loose")) == "loose":
        with np.errstate(over="ignore"):
            return like(noise_to_signal, square * (1 / ell + q))
    bound = _solved(q, square, u, ell, balance)
    # Rounding must not rule out the run itself.
    least = 1.0 if ell == 1 and balance * square >= 1 else 0.0
    return like(noise_to_signal, np.maximum(bound, least))


def min_batch_multiplier(
    noise_to_signal: FloatOrArray,
    closeness: float,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    ell: float = 1,
    balance: float = 1.0,
) -> FloatOrArray:
    """Smallest κ that the linear scaling condition does not rule out.

    Fewer examples a batch: the measured run is then the large one (derived).
    Arguments are those of `max_batch_multiplier`, and so is the formula,
    `(2a - q) / (1 + a u)`, but with `a = b (q + 1/ell) / (C² (2 - u/ell))`; for
    SGD without weight decay it is `(1 - (C² - 1) q) / C²`, and 0 from
    q = 1 / (C² - 1) on: where a run may be C-close to its SDE it may be C-close
    to any smaller batch. For SGD at equilibrium it is at most 1.
    """
    square = checked_closeness(closeness) ** 2
    q, u = _checked(noise_to_signal, learning_rate, weight_decay, ell, balance)
    bound = _solved(q, 1 / square, u, ell, balance)
    # Rounding must not rule out the run itself.
    most = 1.0 if ell == 1 and balance <= square else math.inf
    return like(noise_to_signal, np.clip(bound, 0.0, most))


def _solved(q, square, u, ell, balance):
    """The κ at which κ + q = square b ρ (q + 1/ell)."""
    # Over q + 1/ell, so that q = inf is no special case.
    a = square * balance / (2 - u / ell)
    inverse = 1 / (q + 1 / ell)
    with np.errstate(divide="ignore", over="ignore"):
        return (2 * a - 1 + inverse / ell) / (inverse + a * u)


def min_closeness(
    noise_to_signal: FloatOrArray,
    kappa: float,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    ell: float = 1,
    balance: float = 1.0,
) -> FloatOrArray:
    """Least C to which SGD at κB, κη can be C-close to the measured run.

    A lower bound on C, whatever R, G and N of the scaled run are: r or 1/r,
    the larger, with `r² = (κ + q) / (b ρ (q + 1/ell))` (derived, the same
    algebra as that of `max_batch_multiplier`, at which it is C). It is no
    prediction of any of the three ratios.

    Args:
        noise_to_signal: q of the measured run, at least 0, a number or array.
        kappa: κ, above 0.
        learning_rate, weight_decay: η and λ of the baseline, or None.
        ell: SVAG's amplification in the measured run; 1 is SGD.
        balance: b, above 0; 1 takes the measured run as at equilibrium.

    Returns:
        A float, or an array like `noise_to_signal`, at least 1; infinite where
        κηλ >= 2, with which the weights diverge.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If one is out of range.
    """
    ratio = forced_ratio(
        noise_to_signal, kappa, learning_rate, weight_decay, ell, balance
    )
    with np.errstate(divide="ignore"):
        return like(noise_to_signal, np.maximum(ratio, np.divide(1.0, ratio)))


def forced_ratio(
    noise_to_signal, kappa, learning_rate, weight_decay, ell, balance
):
    """r of `min_closeness`: monotone in each of N / G and `balance`."""
    arguments.number("kappa", kappa, above=0)
    q, u = _checked(noise_to_signal, learning_rate, weight_decay, ell, balance)
    if kappa * u >= 2:
        return like(noise_to_signal, np.full_like(q, math.inf))
    rho = (2 - kappa * u) / (2 - u / ell)
    # (κ + q) / (q + 1/ell), which is 1 at q = inf.
    with np.errstate(over="ignore"):
        square = (1 + (kappa - 1 / ell) / (q + 1 / ell)) / (balance * rho)
    return like(noise_to_signal, np.sqrt(square))


def equilibrium_balance(
    process: str,
    weight_sq_norm: FloatOrArray,
    grad_sq_norm: ArrayLike,
    noise_trace: ArrayLike,
    learning_rate: float,
    weight_decay: float,
    ell: float = 1,
) -> FloatOrArray:
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
        A float, or an array if R, G or N is one.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If one is out of range, or `process` is no such name.
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
    r = arguments.array("weight_sq_norm", weight_sq_norm, least=0)
    g = arguments.array("grad_sq_norm", grad_sq_norm)
    n = arguments.array("noise_trace", noise_trace)
    left = (2 - rate * decay * share) * decay * r
    right = rate * (n + share * g)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        balance = left / right
    return like(balance, balance)


def checked_closeness(closeness):
    """C, if it is a finite number above 1."""
    return arguments.number(
        "closeness", closeness, above=1, remedy="2**0.5 is usual"
    )


def like(argument, result):
    """A result as a float where the argument is a number, else as an array."""
    return float(result) if np.ndim(argument) == 0 else np.asarray(result)


def _checked(noise_to_signal, learning_rate, weight_decay, ell, balance):
    """q as an array and u = ηλ, if these and the others are in their ranges."""
    remedy = "a negative measured ratio means that G is not told apart from 0"
    q = arguments.array("noise_to_signal", noise_to_signal, 0, remedy)
    decay = decay_per_step(learning_rate, weight_decay)
    arguments.number("ell", ell, least=1)
    arguments.number("balance", balance, above=0)
    return q, decay
