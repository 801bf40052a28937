"""The square-root rule's condition under the real Adam, as markdown tables.

    PYTHONPATH=. python benchmarks/square_root_rule.py [--steps 20000]

4,096 coordinates with known mean gradients m_i and noise variances s_i at the
baseline: keras.optimizers.Adam is given m_i + sqrt(s_i / κ) z, with the
hyperparameters that the rule has for κ and the same number of epochs. The
effective learning rate of a coordinate is its displacement in an epoch over
m_i; against the baseline it should change by sqrt((1 + q_i)/(κ + q_i)) with
q_i = s_i / m_i² (derived, section 7 of docs/theory.md).
"""

import argparse
import math

import keras
import numpy as np
import tensorflow as tf

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
    """How far Adam moves in as many epochs as `steps` of the baseline take.

    The first 5/(1 - beta_2) steps, in which v finds its level, go before.

    Returns:
        An array, the displacement of each coordinate against its gradient.
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


def relative_rates(means, ratios, kappas, steps):
    """Effective learning rates against the baseline's, by ratio q_i.

    Returns:
        `{κ: {q: (value, standard error)}}`, means over the coordinates of q.
    """
    variances = ratios * means**2
    measured = {}
    for number, kappa in enumerate((1, *kappas)):
        # A seed of its own for each, so that their errors are independent.
        moved = displacement(means, variances, kappa, steps, number)
        # About 1 at the baseline, so that all coordinates weigh the same.
        moved *= np.sqrt(1 + ratios) / np.sign(means)
        measured[kappa] = {
            q: (
                moved[ratios == q].mean(),
                moved[ratios == q].std(ddof=1)
                / math.sqrt(np.count_nonzero(ratios == q)),
            )
            for q in np.unique(ratios)
        }
    return {
        kappa: {
            q: _quotient(measured[kappa][q], baseline)
            for q, baseline in measured[1].items()
        }
        for kappa in kappas
    }


def _quotient(over, under):
    value = over[0] / under[0]
    return value, abs(value) * math.hypot(
        over[1] / over[0], under[1] / under[0]
    )


def print_rates(rates):
    """A table: measured, predicted in brackets, a star where C is left."""
    print(f"| q | {' | '.join(f'κ = {kappa:g}' for kappa in rates)} |")
    print("|---:" * (1 + len(rates)) + "|")
    worst = 0.0
    for q in next(iter(rates.values())):
        cells = []
        for kappa, of_ratios in rates.items():
            value, error = of_ratios[q]
            expected = math.sqrt((1 + q) / (kappa + q))
            worst = max(worst, abs(value / expected - 1))
            # Not within what the error hides.
            outside = abs(math.log(value)) - 2 * error / value
            star = " \\*" if outside > math.log(CLOSENESS) else ""
            cells.append(f"{value:.4f} ± {error:.4f} ({expected:.4f}){star}")
        print(f"| {q:g} | {' | '.join(cells)} |")
    print(f"\nLargest deviation from the prediction: {worst:.2%}.", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    # Adam does not see their sizes; signs and sizes differ.
    means = rng.choice((-1, 1), COORDINATES) * np.exp(
        rng.standard_normal(COORDINATES)
    )

    ratios = np.repeat(RATIOS, COORDINATES // len(RATIOS))
    preconditioned = np.mean(ratios / (1 + ratios)) / np.mean(1 / (1 + ratios))
    bound = max_batch_multiplier(preconditioned, CLOSENESS)
    print(
        f"Ratios from {min(RATIOS):g} to {max(RATIOS):g}: q_P = "
        f"{preconditioned:.3f}, nothing beyond κ = {bound:.3f} keeps all "
        f"coordinates within C = {CLOSENESS:.4f}.\n"
    )
    kappas = (1 / 4, 1 / 2, 2, 4, 8)
    print_rates(relative_rates(means, ratios, kappas, options.steps))

    q = 2.0
    bound = max_batch_multiplier(q, CLOSENESS)
    print(
        f"\nAll coordinates with q = {q:g}: κ_max = {bound:g}, at which 1/C = "
        f"{1 / CLOSENESS:.4f} is attained.\n"
    )
    ratios = np.full(COORDINATES, q)
    kappas = (0.95 * bound, bound, 1.05 * bound, 1.5 * bound)
    print_rates(relative_rates(means, ratios, kappas, options.steps))


if __name__ == "__main__":
    main()
