import math

import numpy as np

from experiments.report.runs import Run
from experiments.report.seeds import seed_curves


def run(epochs, values):
    history = {"epoch": np.array(epochs), "loss": np.array(values)}
    return Run("run", {}, history, {"accuracy": 0.5})


def test_a_curve_has_the_epochs_that_all_seeds_have():
    epochs, values = seed_curves(
        [run([0, 1, 2], [1.0, 5.0, 3.0]), run([0, 1, 2], [2.0, math.nan, 7.0])],
        "loss",
    )
    np.testing.assert_array_equal(epochs, [1, 3])
    np.testing.assert_array_equal(values, [[1.0, 3.0], [2.0, 7.0]])
