"""How often the 95% confidence set for N / G errs, and how wide it is.

    PYTHONPATH=. python benchmarks/coverage.py pairs --runs 2000
    PYTHONPATH=. python benchmarks/coverage.py preconditioned --runs 2000
    PYTHONPATH=. python benchmarks/coverage.py probe [--rtol 0.1]
    PYTHONPATH=. python benchmarks/coverage.py sources [--names …]
    PYTHONPATH=. python benchmarks/coverage.py recorded --names FILE…
    PYTHONPATH=. python benchmarks/coverage.py probes

"Too high" makes "not ruled out" wrong, "too low" "ruled out", at the largest κ
that the truth does not rule out; nominal for each is 2.5%.

`pairs` have isotropic Gaussian noise, whose effective dimension (Tr Σ)² / Tr Σ²
is their dimension; the coordinates of `preconditioned` ones differ. `probe` is
one of independent batches; with `--rtol` it stops as soon as the relative
standard error is at most that, at 20 batches at the earliest.

Of runs: the sources of sources.py; pairs of real runs, of record_pairs.py,
resampled in stretches after the first `--skip`, where a window that is shorter
is one piece of the run, of one pair in `--every`; and exact probes along the
scale-invariant SGD. Their width is over that of an oracle, which knows G and
how the mean of N - q G is distributed among the windows at the true q: its
central 95% over G.
"""

import itertools

import numpy as np
from sources import (
    SIMULATED,
    gaussian_pairs,
    preconditioned_pairs,
    scale_invariant_sgd,
)
from table import ERRORS, command_line, errors, percent, print_header, print_row

from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.probe.moments import (
    probe_degrees_of_freedom,
    sequential_moments,
)
from tests.probe.moments_test import products

COUNTS = (100, 400, 1600, 6400)
NOISES = (
    ("isotropic", 30),
    ("isotropic", 1000),
    ("falling spectrum", 1000),
    ("skewed", 100),
    ("random size", 300),
)


def sets_of(g, n):
    return [
        NoiseEstimate.from_observations(*run, batch_size=1).interval()
        for run in zip(g, n, strict=True)
    ]


def print_sets(labels, sets, truth, unit, *more):
    """A row of the columns `ERRORS`, no upper end, and width."""
    low, high = np.transpose(sets)
    print_row(
        *labels,
        errors(low, high, truth),
        percent(np.mean(np.isinf(high))),
        f"{np.median(high - low) / unit:.2f}",
        *more,
    )


def print_pairs(options):
    rng = np.random.default_rng(0)
    print_header(
        "N/G | pairs | dimension", ERRORS, "no upper end | width / (N/G)"
    )
    for ratio, pairs, dimension in itertools.product(
        (1, 10, 100), (20, 100, 1000), (30, 1000)
    ):
        g, n, _ = PAIRS[options.study](
            rng, options.runs, pairs, ratio, dimension
        )
        labels = ratio, pairs, dimension
        print_sets(labels, sets_of(g, n), ratio, ratio)


def draw_gradients(rng, noise, dimension, noise_to_signal, count):
    """Gradients of shape (count, dimension) with |mean|² = 1."""
    mean, scales = np.ones(dimension), np.ones(dimension)
    if noise == "falling spectrum":
        scales = np.arange(1, dimension + 1) ** -0.5
        mean = scales * rng.standard_normal(dimension)
    mean /= np.linalg.norm(mean)
    scales *= np.sqrt(noise_to_signal / np.sum(scales**2))
    if noise == "skewed":
        draws = rng.exponential(1, (count, dimension)) - 1
    else:
        draws = rng.standard_normal((count, dimension))
    if noise == "random size":
        draws *= np.exp(rng.normal(0, 0.3, (count, 1)) - 0.3**2)
    return mean + scales * draws


def probe_of(kept):
    means, covariance, parts = sequential_moments(*kept)
    count = kept.shape[1] + 1
    return NoiseEstimate(
        *means,
        *np.sqrt(np.diag(covariance)),
        covariance[0, 1],
        count=count,
        batch_size=1,
        degrees_of_freedom=probe_degrees_of_freedom(count),
        probe=tuple(parts),
    )


def stopped(kept, rtol):
    """The estimate at which a probe with `rtol`, if any, stops."""
    for count in range(20, kept.shape[1] + 1 if rtol else 0):
        result = probe_of(kept[:, : count - 1])
        if result.noise_to_signal_se / result.noise_to_signal <= rtol:
            return result
    return probe_of(kept)


def print_probe(options):
    print_header(
        "noise | dimension | batches | N/G",
        ERRORS,
        "no upper end | width / (N/G) | batches used",
    )
    for (noise, dimension), count, ratio in itertools.product(
        NOISES, (20, 50, 200), (1, 10, 100)
    ):
        rng = np.random.default_rng([0, count, ratio])
        results = []
        for _ in range(options.runs):
            gradients = draw_gradients(rng, noise, dimension, ratio, count)
            kept = np.stack(products(gradients))
            results.append(stopped(kept, options.rtol))
        sets = [result.interval() for result in results]
        used = np.mean([result.count for result in results])
        labels = noise, dimension, count, ratio
        print_sets(labels, sets, ratio, ratio, f"{used:.0f}")


def recorded(options):
    """`(title, G, N, truth)` of windows of recorded runs."""
    rng = np.random.default_rng(0)
    for path in options.names:
        with np.load(path) as file:
            run = np.stack([file["g"], file["n"]])[:, options.skip :]
        truth = run[1].mean() / run[0].mean()
        for every, count in itertools.product(options.every, COUNTS):
            if count * every > run.shape[1] / 4:
                continue
            length = min(options.stretch, count)
            last = run.shape[1] - length * every
            starts = rng.integers(0, last, (options.runs, -(-count // length)))
            index = starts[..., None] + every * np.arange(length)
            windows = run[:, index.reshape(options.runs, -1)[:, :count]]
            spaced = f", every {every} steps" if every > 1 else ""
            yield f"{path.split('/')[-1]}{spaced}", *windows, truth


def simulated(options):
    for name in options.names:
        # Each has a seed of its own, whatever else is asked for.
        rng = np.random.default_rng([0, *name.encode()])
        g, n, truth = SIMULATED[name](rng, options.runs, COUNTS[-1])
        for count in COUNTS:
            yield name.replace("_", " "), g[:, :count], n[:, :count], truth


def probes(options):
    rng = np.random.default_rng(0)
    g, n, truth = scale_invariant_sgd(rng, options.runs, 3000, probed=True)
    for every, count in itertools.product((3, 30, 100), (10, 30)):
        part = slice(0, count * every, every)
        yield f"probes every {every} steps", g[:, part], n[:, part], truth


def print_runs(options):
    print_header("source | pairs", ERRORS, "no upper end | width")
    for name, g, n, truth in RUNS[options.study](options):
        d = n.mean(axis=1) - truth * g.mean(axis=1)
        low, high = np.quantile(d, (0.025, 0.975))
        labels = name, g.shape[1]
        print_sets(labels, sets_of(g, n), truth, (high - low) / g.mean())


RUNS = {"sources": simulated, "recorded": recorded, "probes": probes}
PAIRS = {"pairs": gaussian_pairs, "preconditioned": preconditioned_pairs}
STUDIES = {
    "probe": print_probe,
    **dict.fromkeys(PAIRS, print_pairs),
    **dict.fromkeys(RUNS, print_runs),
}


def main():
    options = command_line(
        __doc__,
        study=STUDIES,
        runs=1000,
        rtol=0.0,
        names=[*SIMULATED],
        stretch=200,
        skip=0,
        every=[1],
    )
    STUDIES[options.study](options)


if __name__ == "__main__":
    main()
