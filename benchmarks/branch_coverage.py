"""Coverage of the interval of `branch_test`'s loss difference, as a table.

    PYTHONPATH=. python benchmarks/branch_coverage.py [--tests 1000]

Logistic regression by SGD at B = 8 and κB, κη from the same weights, on the
same examples of a population that is drawn without end; the truth is the mean
difference of 1,000 pairs of branches on 20,000 other examples. "Held" examples
are drawn anew for each test. "Too low" makes "within tolerance" wrong, "too
high" "worse"; each is nominally 2.5%. "Width": the median one in standard
deviations of the difference of a single pair of branches.
"""

import argparse
import itertools

import numpy as np

from keras_svag.branching.branches import _PARTS, _difference

_INPUTS, _BATCH, _RATE, _EXAMPLES = 10, 8, 0.5, 512
_MOST = 1000
_TRUTH = np.random.default_rng(1).normal(size=_INPUTS)


def drawn(rng, *shape):
    x = rng.normal(size=(*shape, _INPUTS))
    return x, rng.random(shape) < 1 / (1 + np.exp(-x @ _TRUTH))


def trained(weights, x, y, kappa):
    """Weights of all branches after their examples, (branches, inputs)."""
    rows = round(kappa * _BATCH)
    for start in range(0, x.shape[1] - rows + 1, rows):
        part, labels = x[:, start : start + rows], y[:, start : start + rows]
        logits = np.einsum("brk,bk->br", part, weights)
        error = 1 / (1 + np.exp(-logits)) - labels
        gradient = np.einsum("br,brk->bk", error, part) / rows
        weights = weights - kappa * _RATE * gradient
    return weights


def losses(weights, x, y):
    """Of each branch on each example, (branches, examples)."""
    return np.logaddexp(0, weights @ x.T * np.where(y, -1, 1))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tests", type=int, default=1000)
    options = parser.parse_args()
    print("| κ | seeds | held | too low | too high | median width |")
    print("|---:|---:|---:|---:|---:|---:|")
    for kappa, seeds, held in itertools.product(
        (0.5, 4, 16), (2, 3, 10), (160, 1600)
    ):
        rng = np.random.default_rng([int(2 * kappa), seeds, held])
        x, y = drawn(rng, options.tests * seeds, _EXAMPLES)
        start = np.zeros((len(x), _INPUTS))
        scaled = trained(start, x, y, kappa)
        base = trained(start, x, y, 1)
        others = drawn(rng, 20_000)
        means = np.concatenate(
            [
                (
                    losses(scaled[rows], *others) - losses(base[rows], *others)
                ).mean(axis=1)
                for rows in np.array_split(
                    np.arange(min(_MOST, len(x))), _MOST // 20
                )
            ]
        )
        truth = means.mean()
        ends = []
        for rows in np.split(np.arange(len(x)), options.tests):
            examples = drawn(rng, held)
            found = losses(scaled[rows], *examples) - losses(
                base[rows], *examples
            )
            parts = found.reshape(seeds, _PARTS, -1).mean(axis=2)
            ends.append(_difference(parts, 0.95)[1:])
        low, high = np.transpose(ends)
        print(
            f"| {kappa:g} | {seeds} | {held:,} | {np.mean(high < truth):.1%} "
            f"| {np.mean(low > truth):.1%} "
            f"| {np.median(high - low) / means.std():.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
