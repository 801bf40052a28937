"""What shuffling does to N / G along a run of SGD, as a markdown table.

    PYTHONPATH=. python benchmarks/shuffled.py [--runs 200] [--one_order]

Least squares in 10 dimensions at batch size 8, with the data set's size varied:
true and read N / G are ratios of averages over all runs, the coverage is that
of one run's 95% interval over five epochs (at least 620 steps). At learning
rate 0 the weights are fixed. The last line is about batches that are drawn with
replacement. With `--one_order` the rows are shuffled once, for all epochs:
how often the intervals are too high and too low if batches that come again
count as one draw, and if they count as new.
"""

import argparse

import numpy as np

from keras_svag.noise.estimate import NoiseEstimate

BATCH_SIZE = 8


def sgd_trajectories(
    sampling, runs, num_examples, batch_size, steps, skip, rate=0.02, spread=1.0
):
    """Least squares by SGD in parallel runs, measured in halves of batches.

    With the sampling "one order" all epochs of a run have the same order.
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
        if sampling != "with_replacement":
            position = (step + skip) % per_epoch
            if position == 0 and (sampling == "shuffle" or step == -skip):
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


def row(rate, spread, num_examples, runs):
    steps = max(620, 5 * (num_examples // BATCH_SIZE))
    g, s, truth = sgd_trajectories(
        "shuffle",
        runs,
        num_examples,
        BATCH_SIZE,
        steps=steps,
        skip=max(62, num_examples // BATCH_SIZE),
        rate=rate,
        spread=spread,
    )
    sizes = {"num_examples": num_examples, "batch_size": BATCH_SIZE}
    raw = estimates(g, s, **sizes)
    corrected = estimates(g, s, sampling="shuffle", **sizes)
    true = truth.mean()
    cells = [
        f"{rate:g}",
        f"{num_examples:,}",
        f"{true * BATCH_SIZE / num_examples:.3f}",
        f"{true:.3g}",
    ]
    for readings in (raw, corrected):
        cells.append(f"{ratio_of_means(readings) / true - 1:+.1%}")
        cells.append(f"{coverage(readings, truth):.1%}")
    return "| " + " | ".join(cells) + " |"


def errors(runs, truth):
    low, high = np.array([run.interval() for run in runs]).T
    return f"{np.mean(low > truth):.1%} | {np.mean(high < truth):.1%}"


def one_order_rows(rate, num_examples, epochs, runs):
    per_epoch = num_examples // BATCH_SIZE
    total = epochs * per_epoch
    g, s, truth = sgd_trajectories(
        "one order", runs, num_examples, BATCH_SIZE, total, per_epoch, rate
    )
    for every in (1, 4, 20):
        steps = np.random.default_rng(0).integers(0, every, total // every)
        steps += every * np.arange(len(steps))
        batches = steps % per_epoch
        found = [
            estimates(g[:, steps], s[:, steps], batches=b, batch_size=8)
            for b in (batches, None)
        ]
        cells = [errors(runs, truth) for runs in found]
        print(
            f"| {rate:g} | {num_examples:,} | {epochs} | {every} "
            f"| {len(np.unique(batches))} of {len(steps)} "
            f"| {' | '.join(cells)} |",
            flush=True,
        )


def one_order(runs):
    print(
        "| learning rate | n | epochs | every | different batches | too high "
        "| too low | as new: too high | too low |"
    )
    print("|---:" * 9 + "|")
    for rate in (0.25, 0.02):
        for num_examples, epochs in ((500, 5), (500, 20), (1000, 20)):
            one_order_rows(rate, num_examples, epochs, runs)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--one_order", action="store_true")
    arguments = parser.parse_args()
    if arguments.one_order:
        one_order(arguments.runs)
        return
    print(
        "| learning rate | n | noise scale / n | true N/G "
        "| read | covers | corrected | covers |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    # At fixed weights the residuals are spread more, for as large a scale.
    for rate, spread in ((0.0, 3.0), (0.25, 1.0), (0.1, 1.0), (0.02, 1.0)):
        for num_examples in (250, 500, 1_000, 2_000, 5_000):
            print(row(rate, spread, num_examples, arguments.runs), flush=True)
    g, s, truth = sgd_trajectories("with_replacement", 600, 500, 8, 200, 100)
    covered = coverage(estimates(g, s, batch_size=BATCH_SIZE), truth)
    print(f"\nDrawn with replacement, 600 runs of 200 steps: {covered:.1%}")


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
