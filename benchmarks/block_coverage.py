"""Coverage and power of N / G's interval along a run, as a markdown table.

    PYTHONPATH=. python benchmarks/block_coverage.py [--runs 1000]
        [--sources NAME…] [--observations FILE…] [--probes] [--constants]

The set is that of `NoiseEstimate.from_observations`. "Too high" is the error of
"not ruled out", "too low" that of "ruled out"; nominal for each is 2.5%. Power:
how many sets have no upper end, and the median width over that of an oracle.
It knows G and how the mean of D_q = N - q G is distributed among the windows at
the true q, whose central 95% over G are its width.

Sources are those of sources.py, and pairs of real runs (`--observations`, of
record_pairs.py), resampled in stretches of `--stretch`, 200, after the first
`--skip`; a window that is shorter is one piece of the run, of one pair in
`--every`. `--probes` adds rows
of 10 and 30 exact probes along the scale-invariant SGD. With `--constants` the
same for other numbers of cosines and of blocks (`--cosines`, `--blocks`), the
worst and the mean of all cells.
"""

import argparse
import itertools

import numpy as np
from sources import SIMULATED, scale_invariant_sgd

from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.ratio import (
    RunRatio,
    block_means,
    covariance_of_mean,
    student_t_quantile,
)

COUNTS = (100, 400, 1600, 6400)


def resampled(rng, observations, runs, count, stretch, every):
    """Stretches of the observations, in shape (runs, count)."""
    length = min(stretch, count)
    last = observations.shape[1] - length * every
    starts = rng.integers(0, last, (runs, -(-count // length), 1))
    index = starts + every * np.arange(length)
    index = index.reshape(runs, -1)[:, :count]
    return observations[:, index]


def cells(options):
    """`(source, G, N, truth)` of every row."""
    rng = np.random.default_rng(options.seed)
    for path in options.observations:
        with np.load(path) as file:
            recorded = np.stack([file["g"], file["n"]])[:, options.skip :]
        truth = recorded[1].mean() / recorded[0].mean()
        name = path.split("/")[-1]
        for every, count in itertools.product(options.every, COUNTS):
            if count * every > recorded.shape[1] / 4:
                continue
            windows = resampled(
                rng, recorded, options.runs, count, options.stretch, every
            )
            spaced = f", every {every} steps" if every > 1 else ""
            yield f"{name}{spaced}", *windows, truth
    for name in options.sources:
        # Each has a seed of its own, whatever else is asked for.
        rng = np.random.default_rng([options.seed, *name.encode()])
        g, n, truth = SIMULATED[name](rng, options.runs, COUNTS[-1])
        for count in COUNTS:
            yield name.replace("_", " "), g[:, :count], n[:, :count], truth
    if options.probes:
        rng = np.random.default_rng(options.seed)
        g, n, truth = scale_invariant_sgd(rng, options.runs, 3000, probed=True)
        for every, count in itertools.product((3, 30, 100), (10, 30)):
            part = slice(0, count * every, every)
            yield f"probes every {every} steps", g[:, part], n[:, part], truth


def along_a_run(g, n):
    return NoiseEstimate.from_observations(g, n, batch_size=1).interval()


def with_constants(cosines, blocks):
    """The same rule with other constants."""

    def interval(g, n):
        z = np.stack([g, n], axis=1).astype(float)
        covariance, dof = covariance_of_mean(z, cosines)
        ratio = RunRatio(z.mean(axis=0), covariance, block_means(z, blocks))
        return ratio.interval(student_t_quantile(0.95, dof))

    return interval


def oracle_width(g, n, truth):
    d = n.mean(axis=1) - truth * g.mean(axis=1)
    low, high = np.quantile(d, (0.025, 0.975))
    return (high - low) / g.mean()


def rates(g, n, truth, rule=along_a_run):
    """Too high, too low, no upper end, median width over the oracle's."""
    low, high = np.array([rule(*run) for run in zip(g, n, strict=True)]).T
    return (
        np.mean(low > truth),
        np.mean(high < truth),
        np.mean(np.isinf(high)),
        np.median(high - low) / oracle_width(g, n, truth),
    )


def print_table(options, rule=along_a_run):
    print("| source | pairs | too high | too low | no upper end | width |")
    print("|---|" + "---:|" * 5)
    for name, g, n, truth in cells(options):
        *shares, width = rates(g, n, truth, rule)
        shares = " | ".join(f"{share:.1%}" for share in shares)
        print(
            f"| {name} | {g.shape[1]:,} | {shares} | {width:.2f} |",
            flush=True,
        )


def print_constants(options):
    rows = {}
    choices = [*itertools.product(options.cosines, options.blocks)]
    for _, g, n, truth in cells(options):
        for choice in choices:
            rule = with_constants(*choice)
            rows.setdefault(choice, []).append(rates(g, n, truth, rule))
    print(
        "| cosines | blocks | too high: most | mean | too low: most | mean "
        "| no upper end: mean | width: mean |"
    )
    print("|---:|" + "---:|" * 7)
    for choice, values in rows.items():
        high, low, open_ends, width = np.transpose(values)
        bounded = width[np.isfinite(width)]
        print(
            f"| {choice[0]} | {choice[1]} | {high.max():.1%} "
            f"| {high.mean():.1%} | {low.max():.1%} | {low.mean():.1%} "
            f"| {open_ends.mean():.1%} | {np.exp(np.log(bounded).mean()):.2f} |"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sources", nargs="*", default=[*SIMULATED])
    parser.add_argument("--observations", nargs="*", default=[])
    parser.add_argument("--stretch", type=int, default=200)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--every", type=int, nargs="*", default=[1])
    parser.add_argument("--probes", action="store_true")
    parser.add_argument("--constants", action="store_true")
    parser.add_argument(
        "--cosines", type=int, nargs="*", default=[8, 12, 16, 24]
    )
    parser.add_argument("--blocks", type=int, nargs="*", default=[16, 32, 64])
    options = parser.parse_args()
    (print_constants if options.constants else print_table)(options)


if __name__ == "__main__":
    main()
