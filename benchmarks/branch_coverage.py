"""How often the interval of `branch_test`'s loss difference errs.

    PYTHONPATH=. python benchmarks/branch_coverage.py [--tests 1000]

Logistic regression by SGD at B = 8 and κB, κη from the same weights, on the
same examples of a population that is drawn without end; the truth is the mean
difference of 1,000 pairs of branches on 20,000 other examples. "Held" examples
are drawn anew for each test. "Too low" makes "within tolerance" wrong, "too
high" "worse"; each is nominally 2.5%. "Width": the median one in standard
deviations of the difference of a single pair of branches.
"""

import itertools

import numpy as np
from table import ERRORS, command_line, errors, print_header, print_row

from keras_svag.branching.branches import _PARTS, _difference

INPUTS, BATCH, RATE, EXAMPLES = 10, 8, 0.5, 512
PAIRS = 1000
TRUTH = np.random.default_rng(1).normal(size=INPUTS)


def drawn(rng, *shape):
    x = rng.normal(size=(*shape, INPUTS))
    return x, rng.random(shape) < 1 / (1 + np.exp(-x @ TRUTH))


def trained(x, y, kappa):
    """Weights of all branches after their examples, (branches, inputs)."""
    weights, rows = np.zeros((len(x), INPUTS)), round(kappa * BATCH)
    for start in range(0, x.shape[1] - rows + 1, rows):
        part, labels = x[:, start : start + rows], y[:, start : start + rows]
        logits = np.einsum("brk,bk->br", part, weights)
        error = 1 / (1 + np.exp(-logits)) - labels
        gradient = np.einsum("br,brk->bk", error, part) / rows
        weights = weights - kappa * RATE * gradient
    return weights


def differences(weights, x, y):
    """In loss, of pairs of branches on each example, (branches, examples)."""
    sign = np.where(y, -1, 1)
    scaled, base = (np.logaddexp(0, part @ x.T * sign) for part in weights)
    return scaled - base


def main():
    tests = command_line(__doc__, tests=1000).tests
    print_header("κ | seeds | held", ERRORS, "median width")
    for kappa, seeds, held in itertools.product(
        (0.5, 4, 16), (2, 3, 10), (160, 1600)
    ):
        rng = np.random.default_rng([int(2 * kappa), seeds, held])
        examples = drawn(rng, tests * seeds, EXAMPLES)
        weights = np.stack([trained(*examples, k) for k in (kappa, 1)])
        others = drawn(rng, 20_000)
        parts = np.array_split(weights[:, :PAIRS], PAIRS // 20, axis=1)
        means = np.concatenate(
            [differences(part, *others).mean(axis=1) for part in parts]
        )
        ends = []
        for part in np.split(weights, tests, axis=1):
            found = differences(part, *drawn(rng, held))
            found = found.reshape(seeds, _PARTS, -1).mean(axis=2)
            ends.append(_difference(found, 0.95)[1:])
        low, high = np.transpose(ends)
        width = np.median(high - low) / means.std()
        print_row(
            *(f"{kappa:g}", seeds, held),
            errors(low, high, means.mean()),
            f"{width:.2f}",
        )


if __name__ == "__main__":
    main()
