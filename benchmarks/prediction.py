"""`predict_closeness` against SGD at κB, κη, as a markdown table.

    PYTHONPATH=. python benchmarks/prediction.py [--runs 300] [--seed 0]

Simulated problems at rest, SGD at B = 16 and SVAG with ell = 2 there, which
predict C of SGD at κB, κη. "C" is the truth, the mean over all runs; "point" is
what all runs predict, linear and, for comparison, exponential. "Seeds" are
three runs of each ell, every three of them once: how often the interval is too
high and too low, how often the slopes are told apart from no change, and the
median ends.
"""

import argparse
import math

import numpy as np

from keras_svag import svag_weights
from keras_svag.scaling import (
    EquilibriumStatistics,
    c_closeness,
    predict_closeness,
)

KAPPAS = (2, 4, 8, 16)
_BATCH, _EXAMPLES, _SEEDS = 16, 64, 3


def robust_regression(weights, x, y):
    """Gradients of log cosh(w·x / |w| - y), scale-invariant in w."""
    norm = np.linalg.norm(weights, axis=1)[:, None, None]
    unit = weights[:, None] / norm
    along = np.sum(x * unit, axis=2, keepdims=True)
    return np.tanh(along - y[..., None]) * (x - along * unit) / norm


def logistic_regression(weights, x, y):
    """Gradients of the logistic loss of 3 w·x / |w|, labels sign(y)."""
    norm = np.linalg.norm(weights, axis=1)[:, None, None]
    unit = weights[:, None] / norm
    along = np.sum(x * unit, axis=2, keepdims=True)
    sign = np.sign(y)[..., None]
    slope = -3 * sign / (1 + np.exp(3 * sign * along))
    return slope * (x - along * unit) / norm


def two_layers(weights, x, y):
    """Gradients of the squared error of 4 tanh units, not scale-invariant."""
    first = weights[:, :-4].reshape(len(weights), -1, 4)
    second = weights[:, -4:]
    units = np.tanh(x @ first)
    error = np.einsum("rbh,rh->rb", units, second) - y
    back = error[..., None] * second[:, None] * (1 - units**2)
    below = np.broadcast_to(x, (len(weights), *x.shape[-2:]))[..., None]
    below = (below * back[:, :, None]).reshape(*error.shape, -1)
    return np.concatenate([below, error[..., None] * units], axis=2)


# Gradients, learning rate and weight decay at B = 16, steps to rest.
PROBLEMS = {
    "robust regression, η = 0.2": (robust_regression, 0.2, 0.004, 2500),
    "robust regression, η = 1": (robust_regression, 1.0, 0.004, 1000),
    "logistic regression, η = 0.2": (logistic_regression, 0.2, 0.004, 2500),
    "logistic regression, η = 1": (logistic_regression, 1.0, 0.004, 1000),
    "two layers, η = 0.01": (two_layers, 0.01, 0.02, 4000),
    "two layers, η = 0.03": (two_layers, 0.03, 0.02, 2000),
}


def statistics_of_runs(problem, rng, kappa, ell, runs):
    """R, G, and N at the batch size 16, means over runs at rest: (runs, 3)."""
    gradients, rate, decay, settling = PROBLEMS[problem]
    data = np.random.default_rng(0)
    x = data.normal(size=(_EXAMPLES, 4))
    y = x @ data.normal(size=4) / 2 + data.normal(size=_EXAMPLES)
    count = 20 if gradients is two_layers else 4
    weights = np.tile(data.normal(size=count), (runs, 1))
    w1, w2 = svag_weights(ell)
    rate *= kappa / ell
    # As many epochs for all.
    settling = -(-settling * ell // kappa)
    means = np.zeros((runs, 3))
    kept = range(0, settling, 4)
    for step in range(-settling, settling):
        if step in kept:
            parts = gradients(weights, x, y)
            g = np.sum(parts.mean(axis=1) ** 2, axis=1)
            n = (np.sum(parts**2, axis=2).mean(axis=1) - g) / _BATCH
            means += np.stack([np.sum(weights**2, axis=1), g, n], axis=1)
        step_of_weights = decay * weights
        for weight in (w1, w2):
            if weight:
                picked = rng.integers(0, _EXAMPLES, (runs, kappa * _BATCH))
                parts = gradients(weights, x[picked], y[picked])
                step_of_weights += weight * parts.mean(axis=1)
        weights = weights - rate * step_of_weights
    return means / len(kept)


def equilibrium(values):
    """`EquilibriumStatistics` of runs, as seeds."""
    errors = values.std(axis=0, ddof=1) / math.sqrt(len(values))
    return EquilibriumStatistics(*values.mean(axis=0), *errors, len(values))


def exponential(prediction, kappa):
    fastest = max(map(abs, prediction.slopes.values()))
    return math.exp(fastest * (kappa - 1))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(
        "| problem | κ | C | point | exponential | seeds: too high | too low "
        "| told apart | median interval |"
    )
    print("|---|" + "---:|" * 8)
    errors = {kappa: [] for kappa in KAPPAS}
    for problem in PROBLEMS:
        rng = np.random.default_rng(options.seed)
        sgd = statistics_of_runs(problem, rng, 1, 1, options.runs)
        svag = statistics_of_runs(problem, rng, 1, 2, options.runs)
        whole = predict_closeness({1: equilibrium(sgd), 2: equilibrium(svag)})
        of_seeds = [
            predict_closeness(
                {
                    1: equilibrium(sgd[start : start + _SEEDS]),
                    2: equilibrium(svag[start : start + _SEEDS]),
                }
            )
            for start in range(0, options.runs - _SEEDS + 1, _SEEDS)
        ]
        for kappa in KAPPAS:
            scaled = statistics_of_runs(problem, rng, kappa, 1, options.runs)
            truth = c_closeness(equilibrium(sgd), equilibrium(scaled)).value
            point = whole.closeness(kappa)[0]
            other = exponential(whole, kappa)
            errors[kappa].append(np.log([point / truth, other / truth]))
            values, low, high = np.transpose(
                [prediction.closeness(kappa) for prediction in of_seeds]
            )
            print(
                f"| {problem} | {kappa} | {truth:.3g} | {point:.3g} "
                f"| {other:.3g} | {np.mean(low > truth):.0%} "
                f"| {np.mean(high < truth):.0%} "
                f"| {np.mean(np.isfinite(values)):.0%} "
                f"| [{np.median(low):.3g}, {np.median(high):.3g}] |",
                flush=True,
            )
    print("\n| κ | RMS log error of the point | of the exponential |")
    print("|---:|---:|---:|")
    for kappa, pairs in errors.items():
        # Where nothing is told apart from no change, there is no point.
        pairs = [pair for pair in pairs if np.isfinite(pair).all()]
        point, other = np.sqrt(np.mean(np.square(pairs), axis=0))
        print(f"| {kappa} | {point:.1%} | {other:.1%} |")


if __name__ == "__main__":
    main()
