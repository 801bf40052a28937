import math

from keras_svag.arguments import checked_integer

PAIRINGS = ("independent", "halves")

# Above about twice this 2 ell - 1 is no float.
_LARGEST_ELL = 10**307


def svag_weights(ell, pairing="independent"):
    """Weights that mix the gradients of two sub-batches into one SVAG step.

    The two weights sum to 1, so that the mean of the mixed gradient is the
    loss gradient, and its covariance is `ell` times that of SGD's gradient at
    the simulated batch size B:

    - `"independent"`: sub-batches of size B, `(1 ± sqrt(2 ell - 1)) / 2`;
    - `"halves"`: sub-batches of size B/2, `(1 ± sqrt(ell - 1)) / 2`.

    Args:
        ell: integer >= 1, the amplification. 1 is SGD.
        pairing: `"independent"` or `"halves"`.

    Returns:
        `(w1, w2)`, floats.

    Raises:
        ValueError: if `ell` or `pairing` is not one of the above.

    References:
        `"independent"`: Li, Malladi, Arora, "On the Validity of Modeling SGD
        with Stochastic Differential Equations (SDEs)", NeurIPS 2021,
        arXiv:2102.12470. `"halves"`: derived, from
        w1 + w2 = 1 and 2 (w1² + w2²) = ell.
    """
    ell = checked_integer("ell", ell)
    if ell > _LARGEST_ELL:
        raise ValueError(
            f"`ell` must be an integer >= 1 and at most {_LARGEST_ELL:.0e}, "
            f"got {ell!r}."
        )
    if pairing not in PAIRINGS:
        raise ValueError(
            f"`pairing` must be one of {', '.join(map(repr, PAIRINGS))}, "
            f"got {pairing!r}."
        )
    spread = math.sqrt(2 * ell - 1 if pairing == "independent" else ell - 1)
    return (1 + spread) / 2, (1 - spread) / 2
