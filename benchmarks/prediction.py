"""`predict_closeness` against SGD at κB, κη.

    PYTHONPATH=. python benchmarks/prediction.py [--runs 300]

Simulated problems at rest, SGD at B = 16 and SVAG with ell = 2 there, which
predict C of SGD at κB, κη. "C" is the truth, the mean over all runs; "point" is
what all runs predict, linear and, for comparison, exponential. "Seeds" are
three runs of each ell, every three of them once: how often the interval is too
high and too low, how often the slopes are told apart from no change, and the
median ends.
"""

import math

import numpy as np
from sources import (
    BATCH,
    equilibrium,
    exact,
    robust_regression,
    scale_invariant,
    two_layers_of,
)
from table import ERRORS, command_line, errors, percent, print_header, print_row

from keras_svag import svag_weights
from keras_svag.scaling import c_closeness, predict_closeness

EXAMPLES, SEEDS = 64, 3


def logistic_slope(along, y):
    """That of the logistic loss of 3 w·x / |w|, labels sign(y)."""
    sign = np.sign(y)
    return -3 * sign / (1 + np.exp(3 * sign * along))


logistic_regression = scale_invariant(logistic_slope)
# Weights, gradients, learning rate and weight decay at B = 16, steps to rest.
PROBLEMS = {
    "robust regression, η = 0.2": (4, robust_regression, 0.2, 0.004, 2500),
    "robust regression, η = 1": (4, robust_regression, 1.0, 0.004, 1000),
    "logistic regression, η = 0.2": (4, logistic_regression, 0.2, 0.004, 2500),
    "logistic regression, η = 1": (4, logistic_regression, 1.0, 0.004, 1000),
    "two layers, η = 0.01": (20, two_layers_of(4), 0.01, 0.02, 4000),
    "two layers, η = 0.03": (20, two_layers_of(4), 0.03, 0.02, 2000),
}


def statistics_of_runs(problem, rng, kappa, ell, runs):
    """R, G, and N at the batch size 16, means over runs at rest: (runs, 3)."""
    count, gradients, rate, decay, settling = PROBLEMS[problem]
    data = np.random.default_rng(0)
    x = data.normal(size=(EXAMPLES, 4))
    y = x @ data.normal(size=4) / 2 + data.normal(size=EXAMPLES)
    weights = np.tile(data.normal(size=count), (runs, 1))
    # As many epochs for all.
    settling = -(-settling * ell // kappa)
    means = np.zeros((runs, 3))
    kept = range(0, settling, 4)
    for step in range(-settling, settling):
        if step in kept:
            sizes = np.sum(weights**2, axis=1)
            means += np.stack([sizes, *exact(gradients(weights, x, y))], axis=1)
        change = decay * weights
        for weight in filter(None, svag_weights(ell)):
            picked = rng.integers(0, EXAMPLES, (runs, kappa * BATCH))
            parts = gradients(weights, x[picked], y[picked])
            change += weight * parts.mean(axis=1)
        weights = weights - rate * kappa / ell * change
    return means / len(kept)


def predicted(sgd, svag):
    return predict_closeness({1: equilibrium(sgd), 2: equilibrium(svag)})


def main():
    options = command_line(__doc__, runs=300)
    print_header(
        "problem | κ | C | point | exponential",
        f"seeds: {ERRORS} | told apart | median interval",
    )
    logs = {2: [], 4: [], 8: [], 16: []}
    for problem in PROBLEMS:
        rng = np.random.default_rng(0)
        sgd, svag = (
            statistics_of_runs(problem, rng, 1, ell, options.runs)
            for ell in (1, 2)
        )
        whole = predicted(sgd, svag)
        threes = [
            predicted(sgd[start : start + SEEDS], svag[start : start + SEEDS])
            for start in range(0, options.runs - SEEDS + 1, SEEDS)
        ]
        fastest = max(map(abs, whole.slopes.values()))
        for kappa, found in logs.items():
            scaled = statistics_of_runs(problem, rng, kappa, 1, options.runs)
            truth = c_closeness(equilibrium(sgd), equilibrium(scaled)).value
            point = whole.closeness(kappa)[0]
            other = math.exp(fastest * (kappa - 1))
            # Where nothing is told apart from no change, there is no point.
            if math.isfinite(point):
                found.append(np.log([point / truth, other / truth]))
            values, low, high = np.transpose(
                [prediction.closeness(kappa) for prediction in threes]
            )
            print_row(
                *(problem, kappa, f"{truth:.3g}", f"{point:.3g}"),
                f"{other:.3g}",
                errors(low, high, truth),
                percent(np.mean(np.isfinite(values))),
                f"[{np.median(low):.3g}, {np.median(high):.3g}]",
            )
    print_header("κ | RMS log error of the point | of the exponential")
    for kappa, pairs in logs.items():
        print_row(kappa, *map(percent, np.sqrt(np.mean(np.square(pairs), 0))))


if __name__ == "__main__":
    main()
