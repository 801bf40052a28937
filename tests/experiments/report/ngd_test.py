import math

import pytest
from scipy import stats

from experiments.report.ngd import NGDStudy, welch_difference
from experiments.report.seeds import seed_mean
from tests.helpers.synthetic_runs import (
    study_of,
    text_of,
    write_run,
    write_scaled_runs,
)


def test_the_difference_has_welchs_interval():
    first, second = [1.0, 2.0, 4.0, 5.0, 9.0], [3.0, 3.5, 4.0]
    value, low, high = welch_difference(seed_mean(first), seed_mean(second))
    expected = stats.ttest_ind(first, second, equal_var=False)
    # Of the degrees of freedom the whole ones: 4 of 4.3.
    reach = stats.t.ppf(0.975, math.floor(expected.df))
    reach *= abs(value / expected.statistic)
    assert value == pytest.approx(4.2 - 3.5)
    assert (low, high) == pytest.approx((value - reach, value + reach))


@pytest.mark.parametrize(
    ("sgd", "words"),
    [
        ([0.90, 0.91, 0.92], ": told apart)"),
        ([0.80, 0.90, 1.00], ": not told apart)"),
        ([0.91], "undetermined"),
    ],
)
def test_ngd_less_sgd_is_told_apart_by_its_interval(tmp_path, sgd, words):
    ngd = [accuracy - 0.1 for accuracy in sgd]
    for optimizer, accuracies in {"ngd": ngd, "sgd": sgd}.items():
        for seed, accuracy in enumerate(accuracies):
            folder = tmp_path / f"{optimizer}-{seed}"
            write_run(folder, accuracy, optimizer=optimizer, seed=seed)
    study = study_of(tmp_path, NGDStudy)
    value, low, high = study.difference
    assert value == pytest.approx(-0.1)
    assert math.isinf(low) == math.isinf(high) == (len(sgd) == 1)
    text = text_of(study)
    assert "-10.00 percentage points" in text and words in text
    assert ("one seed only" in text) == (len(sgd) == 1)
    assert ("no band" in study.plots()["curves"][0]) == (len(sgd) == 1)


@pytest.mark.parametrize("seeds", [1, 3])
def test_measured_noise_gives_a_closeness(tmp_path, seeds):
    sgd = [1 + 0.01 * seed for seed in range(seeds)]
    factors = {"ngd": [1.1 * factor for factor in sgd], "sgd": sgd}
    write_scaled_runs(tmp_path, factors, key="optimizer")
    study = study_of(tmp_path, NGDStudy)
    assert study.closeness.value == pytest.approx(1.1)
    ratio, low, high = study.closeness.ratios["weight_sq_norm"]
    assert ratio == pytest.approx(1.1)
    assert (high - low > 1e-3) == (seeds > 1)
    text = text_of(study)
    assert "SGD is C-close to NGD for C = 1.1" in text
    assert "Ratios of NGD to SGD" in text and "R 1.1" in text
    assert ("no interval: one seed" in text) == (seeds == 1)
