"""The square-root rule's condition under the real Adam.

    PYTHONPATH=. python benchmarks/square_root_rule.py [--steps 20000]

4,096 coordinates with known mean gradients m_i and noise variances s_i at the
baseline: keras.optimizers.Adam is given m_i + sqrt(s_i / κ) z, with the
hyperparameters that the rule has for κ and the same number of epochs. The
effective learning rate of a coordinate is its displacement in an epoch over
m_i; against the baseline it should change by sqrt((1 + q_i)/(κ + q_i)) with
q_i = s_i / m_i² (derived, section 7 of docs/theory.md).
"""

import math

import keras
import numpy as np
import tensorflow as tf
from table import command_line, plus_minus, print_header, print_row

from keras_svag.scaling.bounds import max_batch_multiplier
from keras_svag.scaling.rules import square_root_scaling_rule

BASELINE = {
    "learning_rate": 1e-3,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-7,
}
COORDINATES = 4096
CLOSENESS = 2**0.5
RATIOS = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def displacement(means, variances, kappa, steps, seed):
    """How far each coordinate goes in as many epochs as `steps` at κ = 1 take.

    The first 5/(1 - beta_2) steps, in which v finds its level, go before.
    """
    scaled = square_root_scaling_rule(kappa=kappa, **BASELINE)
    optimizer = keras.optimizers.Adam(**scaled)
    # In float64: small steps add up to a long way.
    weights = keras.Variable(np.zeros(len(means)), dtype="float64")
    optimizer.build([weights])
    deviations = np.sqrt(variances / kappa)

    @tf.function
    def run(first, last):
        for step in tf.range(first, last):
            noise = tf.random.stateless_normal(
                deviations.shape, (seed, step), dtype="float64"
            )
            optimizer.apply([means + deviations * noise])

    before = round(5 / (1 - scaled["beta_2"]))
    run(tf.constant(0), tf.constant(before))
    start = weights.numpy()
    run(tf.constant(before), tf.constant(before + round(steps / kappa)))
    return start - weights.numpy()


def print_rates(means, ratios, kappas, steps):
    """Measured, predicted in brackets, a star where C is left."""
    rates = []
    for number, kappa in enumerate((1, *kappas)):
        # A seed of its own for each, so that their errors are independent.
        moved = displacement(means, ratios * means**2, kappa, steps, number)
        # About 1 at the baseline, so that all coordinates weigh the same.
        moved *= np.sqrt(1 + ratios) / np.sign(means)
        parts = [moved[ratios == q] for q in np.unique(ratios)]
        rates.append([(p.mean(), p.std(ddof=1) / len(p) ** 0.5) for p in parts])
    print_header("q", *(f"κ = {kappa:g}" for kappa in kappas))
    worst = 0.0
    for q, (base, *scaled) in zip(
        np.unique(ratios), np.swapaxes(rates, 0, 1), strict=True
    ):
        cells = []
        for kappa, (rate, error) in zip(kappas, scaled, strict=True):
            value = rate / base[0]
            relative = math.hypot(error / rate, base[1] / base[0])
            expected = math.sqrt((1 + q) / (kappa + q))
            worst = max(worst, abs(value / expected - 1))
            measured = plus_minus(value, abs(value) * relative, ".4f", ".4f")
            # Not within what the error hides.
            least_change = abs(math.log(value)) - 2 * relative
            star = " \\*" if least_change > math.log(CLOSENESS) else ""
            cells.append(f"{measured} ({expected:.4f}){star}")
        print_row(f"{q:g}", *cells)
    print(f"\nLargest deviation from the prediction: {worst:.2%}.", flush=True)


def main():
    options = command_line(__doc__, steps=20_000)
    rng = np.random.default_rng(0)
    # Adam does not see their sizes; signs and sizes differ.
    means = rng.choice((-1, 1), COORDINATES) * np.exp(
        rng.standard_normal(COORDINATES)
    )
    ratios = np.repeat(RATIOS, COORDINATES // len(RATIOS))
    preconditioned = np.mean(ratios / (1 + ratios)) / np.mean(1 / (1 + ratios))
    bound = max_batch_multiplier(preconditioned, CLOSENESS)
    print(
        f"q_P = {preconditioned:.3f}: nothing beyond κ = {bound:.3f} keeps all "
        f"coordinates within C = {CLOSENESS:.4f}.\n"
    )
    print_rates(means, ratios, (1 / 4, 1 / 2, 2, 4, 8), options.steps)
    bound = max_batch_multiplier(2.0, CLOSENESS)
    print(f"\nAll coordinates with q = 2: κ_max = {bound:g}.\n")
    kappas = (0.95 * bound, bound, 1.05 * bound, 1.5 * bound)
    print_rates(means, np.full(COORDINATES, 2.0), kappas, options.steps)


if __name__ == "__main__":
    main()
