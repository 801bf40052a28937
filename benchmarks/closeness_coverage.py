"""How often the interval of the C-closeness of two runs covers, few seeds.

    PYTHONPATH=. python benchmarks/closeness_coverage.py

Both sides have a few seeds each, whose R, G and N are drawn independently of
one another, normal or log-normal, with the relative spreads in the table. "C"
is the interval of the C-closeness itself, "ratio" that of one of the three
ratios behind it, whose level is higher, so that all three hold together.
"""

import itertools
import math

import numpy as np

from keras_svag.scaling.closeness import EquilibriumStatistics, c_closeness

TRUTH = np.array([[1.0, 2.0, 8.0], [1.1, 1.8, 11.2]])
NUM_DRAWS = 10_000
SPREADS = ((0.02, 0.02), (0.1, 0.1), (0.3, 0.3), (0.02, 0.1), (0.3, 0.1))
SEEDS = ((3, 3), (3, 6))


def draw(rng, means, spread, count, skewed):
    """`EquilibriumStatistics` of `count` seeds."""
    deviations = spread * rng.normal(size=(count, 3))
    if skewed:
        samples = means * np.exp(deviations - spread**2 / 2)
    else:
        samples = means * (1 + deviations)
    errors = samples.std(axis=0, ddof=1) / math.sqrt(count)
    return EquilibriumStatistics(
        *map(float, samples.mean(axis=0)), *map(float, errors), count=count
    )


def coverage(rng, spreads, counts, skewed):
    """Shares of the intervals of C and of the ratios that cover."""
    true_ratios = TRUTH[1] / TRUTH[0]
    true_value = np.max(np.maximum(true_ratios, 1 / true_ratios))
    values, ratios = [], []
    for _ in range(NUM_DRAWS):
        result = c_closeness(
            *(
                draw(rng, means, spread, count, skewed)
                for means, spread, count in zip(
                    TRUTH, spreads, counts, strict=True
                )
            )
        )
        values.append(result.low <= true_value <= result.high)
        ratios += [
            low <= ratio <= high
            for ratio, (_, low, high) in zip(
                true_ratios, result.ratios.values(), strict=True
            )
        ]
    return np.mean(values), np.mean(ratios)


def main():
    level = 1 - 0.05 / 3
    error = math.sqrt(0.95 * 0.05 / NUM_DRAWS)
    ratio_error = math.sqrt(level * (1 - level) / (3 * NUM_DRAWS))
    print(f"level: 95% of C (standard error {error:.2%})")
    print(f"level: {level:.2%} of a ratio (standard error {ratio_error:.2%})")
    print("| seeds | spreads | distribution | C | ratio |")
    print("| --- | --- | --- | ---: | ---: |")
    rng = np.random.default_rng(0)
    for skewed, counts, spreads in itertools.product(
        (False, True), SEEDS, SPREADS
    ):
        value, ratio = coverage(rng, spreads, counts, skewed)
        print(
            f"| {counts[0]}, {counts[1]} | {spreads[0]}, {spreads[1]} "
            f"| {'log-normal' if skewed else 'normal'} "
            f"| {value:.1%} | {ratio:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
