"""Examples that `pairing="halves"` needs for the weak error of `"independent"`.

    PYTHONPATH=. python benchmarks/pairings.py

In closed form, for L = a x²/2 with gradient noise of variance σ² and
third cumulant κ₃ (of a mini-batch of size B) at stationarity. With h = η/l,

    E x² = h² l σ² / (1 - (1 - h a)²),   SDE: η σ² / (2 a)
    E x³ = -h³ c κ₃ / (1 - (1 - h a)³),  SDE: 0

where c = w₁³ + w₂³ in units of a mini-batch of size B: (3 l - 1) / 2 for
"independent", 3 l - 2 for "halves". "independent" takes 2 l B examples for an
SGD step, "halves" l B.
"""

from side_by_side import print_header, print_row

import keras_svag

RATE, CURVATURE = 0.5, 0.5


def third_cumulant(ell, pairing):
    """That of the mixed gradient, in units of a mini-batch of size B."""
    w1, w2 = keras_svag.svag_weights(ell, pairing)
    # κ₃ falls with the square of the batch size.
    of_sub_batch = 1 if pairing == "independent" else 4
    return of_sub_batch * (w1**3 + w2**3)


def variance_error(ell, pairing):
    """Relative error of the stationary E x²; the same for both pairings."""
    step = RATE / ell
    covariance = ell  # (w₁² + w₂²) times that of a sub-batch
    variance = step**2 * covariance / (1 - (1 - step * CURVATURE) ** 2)
    return variance / (RATE / (2 * CURVATURE)) - 1


def skewness_error(ell, pairing):
    """Error of the stationary E x³, for κ₃ = 1."""
    step = RATE / ell
    return (
        step**3
        * third_cumulant(ell, pairing)
        / (1 - (1 - step * CURVATURE) ** 3)
    )


def least_ell(error, wanted, pairing):
    ell = 1
    while error(ell, pairing) > wanted:
        ell += 1
    return ell


def print_closed_form(ells=(4, 16, 64)):
    print_header(
        "error of",
        '`"independent"`, ell',
        "error",
        '`"halves"`, ell',
        "examples, halves / independent",
    )
    for title, error in (
        ("E x²", variance_error),
        ("E x³, skewed noise", skewness_error),
    ):
        for ell in ells:
            wanted = error(ell, "independent") * (1 + 1e-12)
            halves = least_ell(error, wanted, "halves")
            print_row(
                title,
                ell,
                f"{wanted:.4g}",
                halves,
                f"{halves / (2 * ell):.2f}",
            )


if __name__ == "__main__":
    print_closed_form()
