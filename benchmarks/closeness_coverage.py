"""How often the interval of the C-closeness of two runs covers, few seeds.

    PYTHONPATH=. python benchmarks/closeness_coverage.py [--draws 10000]

Both sides have a few seeds each, whose R, G and N are drawn independently of
one another, normal or log-normal, with the relative spreads in the table. "C"
is the interval of the C-closeness itself, at 95%.
"""

import itertools

import numpy as np
from sources import equilibrium
from table import command_line, percent, print_header, print_row

from keras_svag.scaling import c_closeness

TRUTH = np.array([[1.0, 2.0, 8.0], [1.1, 1.8, 11.2]])
SPREADS = ((0.02, 0.02), (0.1, 0.1), (0.3, 0.3), (0.02, 0.1), (0.3, 0.1))


def draw(rng, means, spread, count, skewed):
    """`EquilibriumStatistics` of `count` seeds."""
    deviations = spread * rng.normal(size=(count, 3))
    if skewed:
        return equilibrium(means * np.exp(deviations - spread**2 / 2))
    return equilibrium(means * (1 + deviations))


def main():
    draws = command_line(__doc__, draws=10_000).draws
    print_header("seeds | spreads | distribution | C")
    rng = np.random.default_rng(0)
    for skewed, counts, spreads in itertools.product(
        (False, True), ((3, 3), (3, 6)), SPREADS
    ):
        truth = np.exp(np.abs(np.log(TRUTH[1] / TRUTH[0]))).max()
        found = [
            c_closeness(
                *(
                    draw(rng, *side, skewed)
                    for side in zip(TRUTH, spreads, counts, strict=True)
                )
            )
            for _ in range(draws)
        ]
        covered = np.mean([c.low <= truth <= c.high for c in found])
        print_row(
            *("{}, {}".format(*pair) for pair in (counts, spreads)),
            "log-normal" if skewed else "normal",
            percent(covered),
        )


if __name__ == "__main__":
    main()
