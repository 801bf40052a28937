"""What shuffling does to N / G along a run of SGD.

    PYTHONPATH=. python benchmarks/shuffled.py [--runs 200] [--one_order]

Least squares in 10 dimensions at batch size 8. True and read N / G are ratios
of averages over all runs, the coverage is that of one run's 95% interval over
five epochs (at least 620 steps). With `--one_order` the rows are shuffled once,
for all epochs: how often the intervals err if batches that come again count as
one draw, and if they count as new.
"""

import itertools

import numpy as np
from table import ERRORS, command_line, errors, percent, print_header, print_row

from keras_svag.noise.estimate import NoiseEstimate

BATCH = 8


def trajectories(options, examples, steps, skip, rate, spread=1.0):
    """Least squares by SGD in parallel runs, measured in halves of batches.

    Returns:
        The estimates of G and S of shape (runs, steps), and each run's true
        N / G, the ratio of averages along its trajectory.
    """
    rng, runs = np.random.default_rng(3), options.runs
    x = rng.normal(0, 1, (examples, 10))
    y = x @ rng.normal(0, 1, 10) + rng.normal(0, spread, examples)
    # G and N are quadratic in the weights: small matrices that no BLAS spreads
    # over threads, which is slow on a busy machine.
    row_sq_norms = np.sum(x**2, 1)
    hessian, target = x.T @ x / examples, y @ x / examples
    weighted = x.T * row_sq_norms / examples
    quadratic, linear = weighted @ x, weighted @ y
    constant = np.mean(row_sq_norms * y**2)
    weights = np.zeros((runs, 10))
    g_hat, s_hat, true_g, true_n = np.empty((4, runs, steps))
    for step in range(-skip, steps):
        start = (step + skip) % (examples // BATCH) * BATCH
        if start == 0 and (not options.one_order or step == -skip):
            order = np.tile(np.arange(examples), (runs, 1))
            order = rng.permuted(order, axis=1)
        rows = order[:, start : start + BATCH]
        residuals = np.einsum("rbd,rd->rb", x[rows], weights) - y[rows]
        parts = residuals[:, :, None] * x[rows]
        first, second = parts[:, ::2].mean(1), parts[:, 1::2].mean(1)
        if step >= 0:
            true_g[:, step] = np.sum((weights @ hessian - target) ** 2, 1)
            second_moment = (
                np.sum(weights @ quadratic * weights, 1)
                - 2 * weights @ linear
                + constant
            )
            true_n[:, step] = (second_moment - true_g[:, step]) / BATCH
            g_hat[:, step] = np.sum(first * second, 1)
            s_hat[:, step] = np.sum((first - second) ** 2, 1) * BATCH / 4
        weights -= rate * (first + second) / 2
    return g_hat, s_hat, true_n.sum(1) / true_g.sum(1)


def estimates(g, s, **fields):
    return [
        NoiseEstimate.from_observations(*run, batch_size=BATCH, **fields)
        for run in zip(g, s, strict=True)
    ]


def ends(runs):
    return np.transpose([run.interval() for run in runs])


def covered(runs, truth):
    low, high = ends(runs)
    return percent(np.mean((low <= truth) & (truth <= high)))


def print_shuffled(options):
    print_header(
        "learning rate | n | noise scale / n | true N/G",
        "read | covers | corrected | covers",
    )
    # At fixed weights the residuals are spread more, for as large a scale.
    for (rate, spread), examples in itertools.product(
        ((0.0, 3.0), (0.25, 1.0), (0.1, 1.0), (0.02, 1.0)),
        (250, 500, 1_000, 2_000, 5_000),
    ):
        per_epoch = examples // BATCH
        steps, skip = max(620, 5 * per_epoch), max(62, per_epoch)
        g, s, truth = trajectories(options, examples, steps, skip, rate, spread)
        true = truth.mean()
        cells = []
        for sampling in ({}, {"sampling": "shuffle"}):
            runs = estimates(g, s, num_examples=examples, **sampling)
            noise = np.mean([run.noise_trace for run in runs])
            read = noise / np.mean([run.grad_sq_norm for run in runs])
            cells += [f"{read / true - 1:+.1%}", covered(runs, truth)]
        scale = f"{true * BATCH / examples:.3f}"
        print_row(f"{rate:g}", examples, scale, f"{true:.3g}", *cells)


def print_one_order(options):
    print_header(
        "learning rate | n | epochs | every | different batches",
        f"{ERRORS} | as new: {ERRORS}",
    )
    for rate, (examples, epochs), every in itertools.product(
        (0.25, 0.02), ((500, 5), (500, 20), (1000, 20)), (1, 4, 20)
    ):
        per_epoch = examples // BATCH
        total = epochs * per_epoch
        if every == 1:
            g, s, truth = trajectories(
                options, examples, total, per_epoch, rate
            )
        steps = np.random.default_rng(0).integers(0, every, total // every)
        steps += every * np.arange(len(steps))
        batches = steps % per_epoch
        print_row(
            *(f"{rate:g}", examples, epochs, every),
            f"{len(np.unique(batches))} of {len(steps)}",
            *(
                errors(*ends(estimates(g[:, steps], s[:, steps], **b)), truth)
                for b in ({"batches": batches}, {})
            ),
        )


def main():
    options = command_line(__doc__, runs=200, one_order=False)
    (print_one_order if options.one_order else print_shuffled)(options)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
