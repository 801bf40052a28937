"""Series of observations of G and N whose N / G is known, of many kinds.

Each source is a function `(rng, runs, steps) -> (g, n, truth)`: the estimates
of G and N of a pair, of shape (runs, steps), stationary along each run, and
N / G: a number, or one for each run. Where it has no closed form it is the
ratio of the means over all runs.
"""

from functools import partial

import numpy as np
from scipy import optimize, signal

from keras_svag.scaling import EquilibriumStatistics

BATCH = 16  # Rows of a batch, of which each half is one of a pair.


def autoregressive(rng, runs, steps, correlation):
    """Standard normal series with correlation^t, shape (runs, steps)."""
    noise = rng.normal(size=(runs, steps)) * (1 - correlation**2) ** 0.5
    noise[:, 0] /= (1 - correlation**2) ** 0.5
    return signal.lfilter([1], [1, -correlation], noise, axis=1)


def gaussian_pairs(rng, runs, steps, ratio=10, dimension=30):
    """Independent pairs of gradients with isotropic Gaussian noise, G = 1.

    The half sum and the half difference of a pair are independent, so three
    draws stand for a pair of any dimension.
    """
    variance = ratio / dimension / 2
    along = 1 + variance**0.5 * rng.normal(size=(runs, steps))
    mean = along**2 + variance * rng.chisquare(dimension - 1, (runs, steps))
    difference = variance * rng.chisquare(dimension, (runs, steps))
    return mean - difference, 2 * difference, ratio


def preconditioned_pairs(rng, runs, steps, ratio, dimension):
    """Pairs whose coordinates are scaled by 1/√v, as by Adam; N_P / G_P.

    Their noise-to-signal ratios span three decades.
    """
    spread = np.logspace(-1.5, 1.5, dimension)

    def ratio_at(size):
        # Scaled by 1/(m² + s), signal and noise of a coordinate add up to 1.
        shares = 1 / (1 + size * spread)
        return (1 - shares).sum() / shares.sum()

    size = optimize.brentq(lambda size: ratio_at(size) - ratio, 1e-6, 1e6)
    signals = np.sqrt(1 / (1 + size * spread))
    g, n = np.zeros((2, runs, steps))
    for mean, deviation in zip(signals, np.sqrt(1 - signals**2), strict=True):
        first, second = mean + deviation * rng.normal(size=(2, runs, steps))
        g += first * second
        n += (first - second) ** 2 / 2
    return g, n, ratio


def _with_ratio(g, n):
    return g, n, n.mean() / g.mean()


def two_time_scales(rng, runs, steps):
    """G and N that move within 2 and within 50 steps, besides their noise."""
    fast = autoregressive(rng, runs, steps, 0.5)
    slow = autoregressive(rng, runs, steps, 0.98)
    g, n, _ = gaussian_pairs(rng, runs, steps)
    return _with_ratio(
        g * np.exp(0.5 * fast + 0.4 * slow), n * np.exp(0.3 * slow)
    )


def gradient_bursts(rng, runs, steps):
    """A gradient in log-normal bursts: the top 1% carry 15% of its sum."""
    size = np.exp(1.5 * autoregressive(rng, runs, steps, 0.6))
    g, n, _ = gaussian_pairs(rng, runs, steps, ratio=3)
    return _with_ratio(g * size, n + 2 * size)


def scale_invariant(slope):
    """Gradients of a loss of w·x / |w|, by its slope `(along, y) -> array`.

    Like all gradients here a function of the weights, of shape (runs, ...), and
    of x and y of a batch of each run, or of all. It gives the gradient of each
    example, of shape (runs, rows, ...).
    """

    def gradients(weights, x, y):
        norm = np.linalg.norm(weights, axis=1)[:, None, None]
        unit = weights[:, None] / norm
        along = np.sum(x * unit, axis=2, keepdims=True)
        return slope(along, y[..., None]) * (x - along * unit) / norm

    return gradients


robust_regression = scale_invariant(lambda along, y: np.tanh(along - y))


def two_layers_of(units):
    """Gradients of the squared error of so many tanh units; 4 inputs."""

    def gradients(weights, x, y):
        first = weights[:, :-units].reshape(len(weights), -1, units)
        second = weights[:, -units:]
        hidden = np.tanh(x @ first)
        error = np.einsum("rbh,rh->rb", hidden, second) - y
        back = error[..., None] * second[:, None] * (1 - hidden**2)
        below = np.broadcast_to(x, (len(weights), *x.shape[-2:]))[..., None]
        below = (below * back[:, :, None]).reshape(*error.shape, -1)
        return np.concatenate([below, error[..., None] * hidden], axis=2)

    return gradients


def exact(parts):
    """G and N of a batch, from the gradients of all examples."""
    g = np.sum(parts.mean(axis=1) ** 2, axis=1)
    return g, (np.sum(parts**2, axis=2).mean(axis=1) - g) / BATCH


def observed(parts, scale=1.0):
    """Ĝ and N̂ from the halves of batches; gradients are over `scale`."""
    first, second = (
        (parts[:, half::2] / scale).mean(axis=1) for half in (0, 1)
    )
    return (
        np.sum(first * second, axis=1),
        np.sum((first - second) ** 2, axis=1) / 4,
    )


def equilibrium(runs):
    """`EquilibriumStatistics` of R, G and N of each run, as seeds."""
    errors = np.std(runs, axis=0, ddof=1) / len(runs) ** 0.5
    return EquilibriumStatistics(*np.mean(runs, axis=0), *errors, len(runs))


def _at_rest(rng, steps, x, y, weights, gradients, rate, kept):
    """SGD with weight decay, which keeps such a part of the weights in a step.

    Yields from rest on the gradients of each batch and those of all examples,
    the latter as a function without arguments.
    """
    for step in range(-3000, steps):
        picked = rng.integers(0, len(x), (len(weights), BATCH))
        parts = gradients(weights, x[picked], y[picked])
        if step >= 0:
            yield parts, lambda weights=weights: gradients(weights, x, y)
        weights = kept * weights - rate * parts.mean(axis=1)


def scale_invariant_sgd(rng, runs, steps, probed=False):
    """SGD with weight decay on a normalized robust regression, at rest.

    If `probed`, G and N are those of all examples, as large probes have them.
    """
    x = rng.normal(size=(48, 8))
    y = x @ rng.normal(size=8) / 8**0.5 + rng.normal(size=48)
    weights = rng.normal(size=(runs, 8))
    series = np.empty((2, runs, steps), np.float32)
    run = _at_rest(
        rng, steps, x, y, weights, robust_regression, 0.5, 1 - 0.5 * 0.004
    )
    for step, (parts, of_all) in enumerate(run):
        series[:, :, step] = exact(of_all()) if probed else observed(parts)
    return _with_ratio(*series)


def two_layers(rng, runs, steps):
    """SGD with weight decay on a network with a hidden layer of 6 units.

    Runs may end in other minima: each has its own N / G, of its whole path,
    from all the examples at every eighth step.
    """
    x = rng.normal(size=(64, 4))
    y = np.tanh(x @ rng.normal(size=(4, 3))).sum(1)
    y += 0.5 * rng.normal(size=64)
    first = rng.normal(size=(runs, 4 * 6)) / 2
    weights = np.hstack([first, rng.normal(size=(runs, 6)) / 6**0.5])
    series, path = np.empty((2, runs, steps), np.float32), np.zeros((2, runs))
    # Learning rate 0.1 and decay 0.01, which is taken after the gradient.
    run = _at_rest(rng, steps, x, y, weights, two_layers_of(6), 0.0999, 0.999)
    for step, (parts, of_all) in enumerate(run):
        series[:, :, step] = observed(parts)
        if step % 8 == 0:
            path += exact(of_all())
    return *series, path[1] / path[0]


def _regression(rng, runs, steps, label_noise, heavy=False, adam=False):
    """Least squares with labels of a noise that changes, from rest on.

    Args:
        label_noise: `(rng, runs, steps) -> array` of its standard deviation.
        heavy: whether features have 2.5 moments and the loss is log cosh.
        adam: whether Adam trains, with β₂ = 0.999, and measures in its norm.
    """
    examples, width, settling = 256, 8, 2000
    shape = examples, width
    x = rng.standard_t(2.5, shape) if heavy else rng.normal(size=shape)
    y = x @ rng.normal(size=width)
    noise = label_noise(rng, runs, settling + steps)
    weights, m, v = np.zeros((3, runs, width))
    series = np.empty((2, runs, steps), np.float32)
    scale = np.ones((runs, width))
    for done in range(settling + steps):
        picked = rng.integers(0, examples, (runs, BATCH))
        labels = rng.normal(size=(runs, BATCH))
        labels = y[picked] + labels * noise[:, done, None]
        error = np.einsum("rbw,rw->rb", x[picked], weights) - labels
        if heavy:
            error = np.tanh(error)
        parts = error[:, :, None] * x[picked]
        if done >= settling:
            series[:, :, done - settling] = observed(parts, scale[:, None])
        gradient = parts.mean(axis=1)
        if not adam:
            weights -= 0.2 * gradient
            continue
        m += 0.1 * (gradient - m)
        v += 0.001 * (gradient**2 - v)
        scale = np.sqrt(v / (1 - 0.999 ** (done + 1))) + 1e-7
        weights -= 0.05 * m / (1 - 0.9 ** (done + 1)) / scale
    return _with_ratio(*series)


def _bursts(probability, length=10, size=8.0):
    def noise(rng, runs, steps):
        starts = rng.random((runs, steps)) < probability
        last = np.where(starts, np.arange(steps), -length)
        since = np.arange(steps) - np.maximum.accumulate(last, axis=1)
        return np.where(since < length, size, 1.0)

    return noise


def _slow(rng, runs, steps):
    return np.exp(0.7 * autoregressive(rng, runs, steps, 0.99))


SIMULATED = {
    "gaussian_pairs": gaussian_pairs,
    "two_time_scales": two_time_scales,
    "gradient_bursts": gradient_bursts,
    "scale_invariant_sgd": scale_invariant_sgd,
    # SGD with labels 8 times as noisy for 10 steps, every 100th step.
    "frequent_label_bursts": partial(_regression, label_noise=_bursts(0.01)),
    "two_layers": two_layers,
    # Labels that are more and less noisy over 100 steps.
    "slow_label_noise": partial(_regression, label_noise=_slow),
    "rare_label_bursts": partial(_regression, label_noise=_bursts(0.001)),
    "heavy_features": partial(
        _regression, label_noise=lambda rng, *shape: np.ones(shape), heavy=True
    ),
    "adam_with_bursts": partial(
        _regression, label_noise=_bursts(0.001), adam=True
    ),
}
