import math

import numpy as np
import pytest

from experiments.report.runs import Run
from experiments.report.seeds import seed_curves, seed_mean


def run(epochs, values):
    history = {"epoch": np.array(epochs), "loss": np.array(values)}
    return Run("run", {}, history, {"accuracy": 0.5})


def test_mean_and_standard_error_are_those_of_the_sample():
    mean = seed_mean([1.0, 2.0, 6.0])
    variance = ((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 2
    assert mean.value == 3
    assert mean.standard_error == pytest.approx(math.sqrt(variance / 3))
    assert mean.count == 3


def test_one_seed_has_no_standard_error():
    mean = seed_mean([2.0])
    assert mean.value == 2
    assert math.isnan(mean.standard_error)


def test_a_curve_has_the_epochs_that_all_seeds_have():
    epochs, values = seed_curves(
        [run([0, 1, 2], [1.0, 5.0, 3.0]), run([0, 1, 2], [2.0, math.nan, 7.0])],
        "loss",
    )
    np.testing.assert_array_equal(epochs, [1, 3])
    np.testing.assert_array_equal(values, [[1.0, 3.0], [2.0, 7.0]])
