"""Least squares by SGD in parallel runs, and how its noise is read."""

import numpy as np

from keras_svag.noise.estimate import NoiseEstimate


def sgd_trajectories(
    sampling, runs, num_examples, batch_size, steps, skip, rate=0.02, spread=1.0
):
    """Least squares by SGD in parallel runs, measured in halves of batches.

    Returns the estimates of G and S of shape (runs, steps), and each run's true
    N / G, the ratio of averages along its trajectory.
    """
    rng = np.random.default_rng(3)
    dimension = 10
    x = rng.normal(0, 1, (num_examples, dimension))
    y = x @ rng.normal(0, 1, dimension)
    y += rng.normal(0, spread, num_examples)
    # G and N are quadratic in the weights: small matrices that no BLAS spreads
    # over threads, which is slow on a busy machine.
    row_sq_norms = np.sum(x**2, 1)
    hessian, target = x.T @ x / num_examples, y @ x / num_examples
    weighted = x.T * row_sq_norms / num_examples
    quadratic, linear = weighted @ x, weighted @ y
    constant = np.mean(row_sq_norms * y**2)
    weights = np.zeros((runs, dimension))
    g_hat, s_hat = np.empty((2, runs, steps))
    true_g, true_n = np.empty((2, runs, steps))
    per_epoch = num_examples // batch_size
    for step in range(-skip, steps):
        if sampling == "shuffle":
            position = (step + skip) % per_epoch
            if position == 0:
                order = rng.permuted(
                    np.tile(np.arange(num_examples), (runs, 1)), axis=1
                )
            start = position * batch_size
            rows = order[:, start : start + batch_size]
        else:
            rows = rng.integers(num_examples, size=(runs, batch_size))
        residuals = np.einsum("rbd,rd->rb", x[rows], weights) - y[rows]
        picked = residuals[:, :, None] * x[rows]
        first, second = picked[:, ::2].mean(1), picked[:, 1::2].mean(1)
        if step >= 0:
            true_g[:, step] = np.sum((weights @ hessian - target) ** 2, 1)
            second_moment = (
                np.sum(weights @ quadratic * weights, 1)
                - 2 * weights @ linear
                + constant
            )
            true_n[:, step] = (second_moment - true_g[:, step]) / batch_size
            g_hat[:, step] = np.sum(first * second, 1)
            distance = np.sum((first - second) ** 2, 1)
            s_hat[:, step] = distance * batch_size / 4
        weights -= rate * (first + second) / 2
    return g_hat, s_hat, true_n.sum(1) / true_g.sum(1)


def estimates(g, s, **fields):
    return [
        NoiseEstimate.from_observations(*run, **fields)
        for run in zip(g, s, strict=True)
    ]


def ratio_of_means(runs):
    noise = np.mean([run.noise_trace for run in runs])
    return noise / np.mean([run.grad_sq_norm for run in runs])


def coverage(runs, truth):
    low, high = np.array([run.interval() for run in runs]).T
    return np.mean((low <= truth) & (truth <= high))
