"""The square-root rule under the real Adam, on gradients that are known."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag.scaling import square_root_scaling_rule

pytestmark = pytest.mark.slow

BASELINE = {
    "learning_rate": 1e-3,
    "beta_1": 0.995,
    "beta_2": 0.995,
    "epsilon": 0.5,
}
COORDINATES = 4096


def displacements(kappa, *phases):
    """How far Adam by the rule moves in each phase: `(mean, standard error)`.

    Args:
        kappa: Factor on the batch size.
        phases: Mean gradient, its variance at the baseline's batch size, and
            how many steps of the baseline the phase takes.
    """
    optimizer = keras.optimizers.Adam(
        **square_root_scaling_rule(kappa=kappa, **BASELINE)
    )
    weights = keras.Variable(np.zeros(COORDINATES), dtype="float64")
    optimizer.build([weights])

    @tf.function
    def run(mean, deviation, steps, seed):
        for step in tf.range(steps):
            noise = tf.random.stateless_normal(
                [COORDINATES], (seed, step), dtype="float64"
            )
            optimizer.apply([mean + deviation * noise])

    moved = []
    for number, (mean, variance, steps) in enumerate(phases):
        before = weights.numpy()
        run(
            *map(tf.constant, np.array([mean, math.sqrt(variance / kappa)])),
            *map(tf.constant, (round(steps / kappa), number)),
        )
        change = before - weights.numpy()
        error = change.std(ddof=1) / math.sqrt(COORDINATES)
        moved.append((change.mean(), error))
    return moved


@pytest.mark.parametrize("kappa", [1, 4])
def test_scaled_runs_take_one_way_in_epochs(kappa):
    """Each scaled number is in it: rate, memories of both moments, ε.

    Noise of variance 0.1 until v is at its level; then the mean gradient is
    switched on and the noise grows. In continuous time, t in steps of the
    baseline, m follows with rate 1 - β₁ and v with 1 - β₂.
    """
    mean, before, after, steps = 0.5, 0.1, 1.0, 400
    t = np.linspace(0, steps, 100_001)
    followed_m, followed_v = (
        1 - np.exp(-(1 - BASELINE[beta]) * t) for beta in ("beta_1", "beta_2")
    )
    v = before + (kappa * mean**2 + after - before) * followed_v
    rates = mean * followed_m / (np.sqrt(v) + BASELINE["epsilon"])
    expected = BASELINE["learning_rate"] * np.trapezoid(rates, t)
    _, (moved, error) = displacements(
        kappa, (0.0, before, 1000), (mean, after, steps)
    )
    # Steps are not continuous: β₁'s lag is (1 - κ (1 - β₁))/(1 - β₁).
    assert error < 0.01 * expected
    assert moved == pytest.approx(expected, rel=0.03)
