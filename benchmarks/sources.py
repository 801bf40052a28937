"""Series of observations of G and N whose N / G is known, of many kinds.

Each source is a function `(rng, runs, steps) -> (g, n, truth)`: the estimates
of G and N of a pair, of shape (runs, steps), stationary along each run, and
N / G: a number, or one for each run. Where it has no closed form it is the
ratio of the means over all runs.
"""

import numpy as np
from scipy import signal

_BATCH = 16  # Rows of a batch, of which each half is one of a pair.


def autoregressive(rng, runs, steps, correlation):
    """Standard normal series with correlation^t, shape (runs, steps)."""
    noise = rng.normal(size=(runs, steps)) * (1 - correlation**2) ** 0.5
    noise[:, 0] /= (1 - correlation**2) ** 0.5
    return signal.lfilter([1], [1, -correlation], noise, axis=1)


def gaussian_pairs(rng, runs, steps, ratio=10, dimension=30):
    """Independent pairs of gradients with isotropic Gaussian noise."""
    variance = ratio / dimension / 2
    along = 1 + variance**0.5 * rng.normal(size=(runs, steps))
    mean = along**2 + variance * rng.chisquare(dimension - 1, (runs, steps))
    difference = variance * rng.chisquare(dimension, (runs, steps))
    return mean - difference, 2 * difference, ratio


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


def scale_invariant_sgd(rng, runs, steps, probed=False):
    """SGD with weight decay on a normalized robust regression, at rest.

    Args:
        probed: whether G and N are those of all examples, as large probes
            have them.
    """
    examples, rate, decay = 48, 0.5, 0.004
    x = rng.normal(size=(examples, 8))
    y = x @ rng.normal(size=8) / 8**0.5 + rng.normal(size=examples)
    weights = rng.normal(size=(runs, 8))
    kept = _Kept(runs, steps)

    def parts_of(x, y):
        along = np.sum(x * unit, axis=2, keepdims=True)
        return np.tanh(along - y[..., None]) * (x - along * unit) / norm

    for step in range(-3000, steps):
        norm = np.linalg.norm(weights, axis=1)[:, None, None]
        unit = weights[:, None] / norm
        picked = rng.integers(0, examples, (runs, _BATCH))
        gradient = kept.step(step, parts_of(x[picked], y[picked]))
        if probed and step >= 0:
            kept.g[:, step], kept.n[:, step] = _exact(parts_of(x, y))
        weights = (1 - rate * decay) * weights - rate * gradient
    return _with_ratio(kept.g, kept.n)


def _exact(parts):
    """G and N from the gradients of all examples, shape (runs, n, ...)."""
    g = np.sum(parts.mean(axis=1) ** 2, axis=1)
    return g, (np.sum(parts**2, axis=2).mean(axis=1) - g) / _BATCH


def two_layers(rng, runs, steps):
    """SGD with weight decay on a network with a hidden layer of 6 units.

    Runs may end in other minima: each has its own N / G, of its whole path,
    from all the examples at every eighth step.
    """
    examples, hidden, rate, decay = 64, 6, 0.1, 0.01
    x = rng.normal(size=(examples, 4))
    y = np.tanh(x @ rng.normal(size=(4, 3))).sum(1)
    y += 0.5 * rng.normal(size=examples)
    first = rng.normal(size=(runs, 4, hidden)) / 2
    second = rng.normal(size=(runs, hidden)) / hidden**0.5
    kept, path = _Kept(runs, steps), np.zeros((2, runs))

    def parts_of(x, y):
        units = np.tanh(x @ first)
        error = np.einsum("rbh,rh->rb", units, second) - y
        back = error[:, :, None] * second[:, None] * (1 - units**2)
        below = np.broadcast_to(x, (runs, *x.shape[-2:]))[:, :, :, None]
        below = below * back[:, :, None]
        return np.concatenate(
            [below.reshape(*error.shape, -1), error[:, :, None] * units], axis=2
        )

    for step in range(-3000, steps):
        picked = rng.integers(0, examples, (runs, _BATCH))
        gradient = kept.step(step, parts_of(x[picked], y[picked]))
        if step >= 0 and step % 8 == 0:
            path += _exact(parts_of(x, y))
        first -= rate * gradient[:, :-hidden].reshape(first.shape)
        second -= rate * gradient[:, -hidden:]
        first *= 1 - rate * decay
        second *= 1 - rate * decay
    return kept.g, kept.n, path[1] / path[0]


def _regression(rng, runs, steps, label_noise, heavy=False, adam=False):
    """Least squares with labels of a noise that changes, from rest on.

    Args:
        label_noise: `(rng, runs, steps) -> array` of its standard deviation.
        heavy: whether features have 2.5 moments and the loss is log cosh.
        adam: whether Adam trains, with β₂ = 0.999, and measures in its norm.
    """
    examples, width, settling = 256, 8, 2000
    x = rng.standard_t(2.5, (examples, width)) if heavy else None
    x = rng.normal(size=(examples, width)) if x is None else x
    y = x @ rng.normal(size=width)
    noise = label_noise(rng, runs, settling + steps)
    weights, m, v = np.zeros((3, runs, width))
    kept = _Kept(runs, steps)
    for step in range(-settling, steps):
        picked = rng.integers(0, examples, (runs, _BATCH))
        labels = rng.normal(size=(runs, _BATCH))
        labels = y[picked] + labels * noise[:, settling + step, None]
        error = np.einsum("rbw,rw->rb", x[picked], weights) - labels
        if heavy:
            error = np.tanh(error)
        parts = error[:, :, None] * x[picked]
        if not adam:
            weights -= 0.2 * kept.step(step, parts)
            continue
        done = step + settling
        scale = np.sqrt(v / (1 - 0.999 ** max(done, 1))) + 1e-7
        gradient = kept.step(step, parts, scale[:, None] if done else 1.0)
        m += 0.1 * (gradient - m)
        v += 0.001 * (gradient**2 - v)
        scale = np.sqrt(v / (1 - 0.999 ** (done + 1))) + 1e-7
        weights -= 0.05 * m / (1 - 0.9 ** (done + 1)) / scale
    return _with_ratio(kept.g, kept.n)


class _Kept:
    """Takes the parts of examples in a gradient, and keeps G and N."""

    def __init__(self, runs, steps):
        self.g, self.n = np.empty((2, runs, steps), np.float32)

    def step(self, step, parts, scale=1.0):
        """The mean of `parts`, shape (runs, rows, ...); kept from step 0 on.

        Args:
            scale: by what G and N's gradients are divided, as by Adam.
        """
        if step >= 0:
            first, second = (
                (parts[:, half::2] / scale).mean(axis=1) for half in (0, 1)
            )
            self.g[:, step] = np.sum(first * second, axis=1)
            self.n[:, step] = np.sum((first - second) ** 2, axis=1) / 4
        return parts.mean(axis=1)


def _slow(rng, runs, steps):
    return np.exp(0.7 * autoregressive(rng, runs, steps, 0.99))


def _bursts(probability, length=10, size=8.0):
    def noise(rng, runs, steps):
        starts = rng.random((runs, steps)) < probability
        last = np.where(starts, np.arange(steps), -length)
        since = np.arange(steps) - np.maximum.accumulate(last, axis=1)
        return np.where(since < length, size, 1.0)

    return noise


def slow_label_noise(rng, runs, steps):
    """SGD whose labels are more and less noisy over 100 steps."""
    return _regression(rng, runs, steps, _slow)


def frequent_label_bursts(rng, runs, steps):
    """SGD with labels 8 times as noisy for 10 steps, every 100th step."""
    return _regression(rng, runs, steps, _bursts(0.01))


def rare_label_bursts(rng, runs, steps):
    """The same every 1,000th step."""
    return _regression(rng, runs, steps, _bursts(0.001))


def heavy_features(rng, runs, steps):
    """SGD on 256 examples with features of 2.5 moments."""
    return _regression(
        rng, runs, steps, lambda rng, runs, steps: np.ones((runs, steps)), True
    )


def adam_with_bursts(rng, runs, steps):
    """Adam in its own norm, with labels as in `rare_label_bursts`."""
    return _regression(rng, runs, steps, _bursts(0.001), adam=True)


SIMULATED = {
    source.__name__: source
    for source in (
        gaussian_pairs,
        two_time_scales,
        gradient_bursts,
        scale_invariant_sgd,
        frequent_label_bursts,
        two_layers,
        slow_label_noise,
        rare_label_bursts,
        heavy_features,
        adam_with_bursts,
    )
}
