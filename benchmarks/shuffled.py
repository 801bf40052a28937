"""What shuffling does to N / G along a run of SGD, as a markdown table.

    PYTHONPATH=. python benchmarks/shuffled.py [--runs 200]

Least squares in 10 dimensions at batch size 8, the runs of
tests/noise/coverage_test.py, with the data set's size varied: true and read
N / G are ratios of averages over all runs, the coverage is that of one run's
95% interval over five epochs (at least 620 steps). At learning rate 0 the
weights are fixed.
"""

import argparse

import numpy as np

from tests.noise.coverage_test import (
    coverage,
    estimates,
    ratio_of_means,
    sgd_trajectories,
)

BATCH_SIZE = 8


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


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=200)
    arguments = parser.parse_args()
    print(
        "| learning rate | n | noise scale / n | true N/G "
        "| read | covers | corrected | covers |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    # At fixed weights the residuals are spread more, for as large a scale.
    for rate, spread in ((0.0, 3.0), (0.25, 1.0), (0.1, 1.0), (0.02, 1.0)):
        for num_examples in (250, 500, 1_000, 2_000, 5_000):
            print(row(rate, spread, num_examples, arguments.runs), flush=True)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
