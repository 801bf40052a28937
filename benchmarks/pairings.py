"""Examples that `pairing="halves"` needs for the weak error of `"independent"`.

    PYTHONPATH=. python benchmarks/pairings.py [--seeds 4]

First in closed form, for L = a x²/2 with gradient noise of variance σ² and
third cumulant κ₃ (of a mini-batch of size B) at stationarity. With h = η/l,

    E x² = h² l σ² / (1 - (1 - h a)²),   SDE: η σ² / (2 a)
    E x³ = -h³ c κ₃ / (1 - (1 - h a)³),  SDE: 0

where c = w₁³ + w₂³ in units of a mini-batch of size B: (3 l - 1) / 2 for
"independent", 3 l - 2 for "halves". "independent" takes 2 l B examples for an
SGD step, "halves" l B.

Then the digits MLP trained to equilibrium with both pairings: its squared
weight norm R, which follows from N + G / l, so that SVAG's R differs from the
SDE's by about G / (N l), relatively; and its loss.
"""

import argparse
import statistics
import warnings

import keras
from side_by_side import print_header, print_row
from workloads import WORKLOADS, cross_entropy

import keras_svag
from experiments import datasets

RATE, CURVATURE = 0.5, 0.5
LEARNING_RATE, WEIGHT_DECAY, BATCH_SIZE = 0.2, 5e-3, 16
PAIRINGS = ("independent", "halves")


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


def equilibrium(data, ell, pairing, seed, epochs, last):
    """Means of R and of the loss over the last epochs of a training."""
    rows = (2 if pairing == "independent" else 1) * BATCH_SIZE
    batches = datasets.training_batches(
        data.train_images,
        data.train_labels,
        sub_batch_size=rows // 2,
        sub_batches_per_step=2,
        sampling="with_replacement",
        seed=seed,
        preprocess=datasets.standardization(
            data.mean, data.std, data.max_value
        ),
    )
    keras.utils.set_random_seed(seed)
    model = keras_svag.SVAGModel(WORKLOADS["mlp"].make())
    model.compile(
        keras_svag.SVAG(LEARNING_RATE, ell, pairing, weight_decay=WEIGHT_DECAY),
        loss=cross_entropy(),
        steps_per_execution=16,
    )
    steps = len(data.train_images) // BATCH_SIZE * ell // 16 * 16
    history = model.fit(
        batches, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0
    ).history
    keras.backend.clear_session()
    return [
        statistics.mean(history[key][-last:])
        for key in ("weight_sq_norm", "loss")
    ]


def print_digits(seeds, ells, epochs, last):
    data = datasets.load("digits")
    print_header(
        "digits", "examples an SGD step", "R, ± standard error", "loss"
    )
    for ell in ells:
        for pairing in PAIRINGS:
            runs = [
                equilibrium(data, ell, pairing, seed, epochs, last)
                for seed in range(seeds)
            ]
            cells = [
                f"{statistics.mean(values):.4g} ± "
                f"{statistics.stdev(values) / seeds**0.5:.2g}"
                for values in zip(*runs, strict=True)
            ]
            factor = 2 if pairing == "independent" else 1
            print_row(
                f'ell = {ell}, `"{pairing}"`', factor * ell * BATCH_SIZE, *cells
            )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--ells", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--last", type=int, default=30)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print_closed_form()
    print()
    print_digits(
        arguments.seeds, arguments.ells, arguments.epochs, arguments.last
    )


if __name__ == "__main__":
    main()
