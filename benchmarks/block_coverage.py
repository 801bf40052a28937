"""Coverage of N / G's interval along a run, as a markdown table.

    python benchmarks/block_coverage.py [--runs 500] [--observations FILE]

The set is that of `NoiseEstimate.from_observations`: long-run covariance and
skewness, from blocks of time. Beside it is that of single observations, taken
as uncorrelated, with Student's t by their number. The truth is N / G's average
at equilibrium. "Too high" is the error of "not ruled out", "too low" that of
"ruled out"; nominal for each is 2.5%.

Sources: pairs of a real run (`--observations`, files of record_pairs.py),
resampled in stretches of 200; pairs and probes of simulated scale-invariant SGD
on a problem that the seed draws; Gaussian pairs; heavy tails, independent.
"""

import argparse

import numpy as np

from benchmarks.coverage import draw_pairs
from keras_svag.noise.estimate import NoiseEstimate

_STRETCH = 200


def scale_invariant_sgd(rng, runs, steps, settling=3000):
    """Parallel runs of a normalized robust regression, from equilibrium on.

    Returns:
        G_hat, N_hat, G and N, each of shape (runs, steps), N at batch size 16.
    """
    examples, rows, rate, decay = 48, 16, 0.5, 0.004
    x = rng.normal(size=(examples, 8))
    y = x @ rng.normal(size=8) / 8**0.5 + rng.normal(size=examples)
    weights = rng.normal(size=(runs, 8))
    kept = np.empty((4, runs, steps), np.float32)
    for step in range(-settling, steps):
        norm = np.linalg.norm(weights, axis=1, keepdims=True)
        unit = weights / norm
        along = unit @ x.T
        slope = np.tanh(along - y)
        picked = rng.integers(0, examples, (runs, rows))
        across = x[picked] - (
            np.take_along_axis(along, picked, 1)[:, :, None] * unit[:, None]
        )
        gradients = np.take_along_axis(slope, picked, 1)[:, :, None] * across
        gradients /= norm[:, :, None]
        first, second = gradients[:, ::2].mean(1), gradients[:, 1::2].mean(1)
        if step >= 0:
            mean = slope @ x - np.sum(slope * along, 1)[:, None] * unit
            g = np.sum((mean / examples / norm) ** 2, 1)
            squares = slope**2 * (np.sum(x**2, 1) - along**2)
            n = (squares.mean(1) / norm[:, 0] ** 2 - g) / rows
            g_hat = np.sum(first * second, 1)
            n_hat = np.sum((first - second) ** 2, 1) / 4
            kept[:, :, step] = g_hat, n_hat, g, n
        weights *= 1 - rate * decay
        weights -= rate * (first + second) / 2
    return kept.astype(float)


def resampled(rng, observations, runs, count):
    """Stretches of the observations, in shape (runs, count)."""
    length = min(_STRETCH, count)
    starts = rng.integers(
        0, observations.shape[1] - length, (runs, -(-count // length), 1)
    )
    index = (starts + np.arange(length)).reshape(runs, -1)[:, :count]
    return observations[:, index]


def along_a_run(g, n):
    """The estimate that takes the order of the observations into account."""
    return NoiseEstimate.from_observations(g, n, batch_size=1)


def alone(g, n):
    """That of observations which are neither correlated nor skewed."""
    covariance = np.cov(g, n) / len(g)
    return NoiseEstimate(
        *(g.mean(), n.mean()),
        *np.sqrt(np.diag(covariance)),
        covariance[0, 1],
        count=len(g),
        batch_size=1,
    )


def errors(g, n, truth, estimate):
    """Rates of sets above and below the truth; their median end ratio."""
    sets = np.array(
        [estimate(*run).interval() for run in zip(g, n, strict=True)]
    )
    low, high = sets.T
    return np.mean(low > truth), np.mean(high < truth), np.median(sets, 0)


def cases(options):
    """`(name, G, N, truth)` of every row."""
    rng = np.random.default_rng(options.seed)
    runs = options.runs
    for path in options.observations:
        with np.load(path) as file:
            recorded = np.stack([file["g"], file["n"]])
        truth = recorded[1].mean() / recorded[0].mean()
        for count in (100, 400, 1600, 6400):
            g, n = resampled(rng, recorded, runs, count)
            yield f"{path.split('/')[-1]}: {count:,} pairs", g, n, truth
    g_hat, n_hat, g, n = scale_invariant_sgd(rng, runs, 6400)
    truth = n.mean() / g.mean()
    for count in (100, 400, 1600, 6400):
        name = f"simulated SGD: {count:,} pairs"
        yield name, g_hat[:, :count], n_hat[:, :count], truth
    for count in (10, 30):
        for every in (3, 30, 100):
            part = slice(0, count * every, every)
            name = f"simulated SGD: {count} probes, every {every} steps"
            yield name, g[:, part], n[:, part], truth
    for ratio in (1, 10, 100):
        for count in (20, 100, 1000):
            g, n = draw_pairs(rng, (runs, count), ratio, 30)
            yield f"Gaussian: N/G = {ratio}, {count:,}", g, n, ratio
    for count in (30, 100, 1000):
        t, contaminated = heavy_tails(rng, runs, count)
        yield f"Student-t3 noise: {count:,} pairs", *t, 10
        name = f"2% of batches with 25 times the variance: {count:,} pairs"
        yield name, *contaminated, 10


def heavy_tails(rng, runs, count, ratio=10, dimension=100):
    """Pairs of independent gradients with N/G = `ratio` and heavy tails."""
    shape = (2, runs, count)
    # Of a batch's noise: a common factor of its size, with mean square 1.
    student = 1 / np.sqrt(rng.chisquare(3, shape))
    bursts = np.where(rng.random(shape) < 0.02, 5.0, 1.0) / 1.48**0.5
    for factors in (student, bursts):
        # |g1 + g2|²/4 and <., .> need the noise along and across the mean.
        first, second = (
            factor[..., None]
            * rng.normal(0, (ratio / dimension) ** 0.5, (runs, count, 1))
            for factor in factors
        )
        along = (1 + first[..., 0]) * (1 + second[..., 0])
        # The other dimensions: |z1|², |z2|² and <z1, z2> of Gaussians.
        squares = rng.chisquare(dimension - 1, shape) * ratio / dimension
        cosine = rng.normal(size=(runs, count)) / dimension**0.5
        inner = cosine * np.sqrt(squares[0] * squares[1])
        g = along + factors[0] * factors[1] * inner
        total = factors**2 * squares
        n = (total.sum(0) - 2 * factors[0] * factors[1] * inner) / 2
        n += (first - second)[..., 0] ** 2 / 2
        yield g, n


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--observations", nargs="*", default=[])
    print(
        "| source | alone: too high | too low | along a run: too high "
        "| too low | median set / truth |"
    )
    print("|---|" + "---:|" * 5)
    for name, g, n, truth in cases(parser.parse_args()):
        alone_high, alone_low, _ = errors(g, n, truth, alone)
        high, low, ends = errors(g, n, truth, along_a_run)
        ends = ends / truth
        print(
            f"| {name} | {alone_high:.1%} | {alone_low:.1%} | {high:.1%} "
            f"| {low:.1%} | [{ends[0]:.2f}, {ends[1]:.2f}] |",
            flush=True,
        )


if __name__ == "__main__":
    main()
