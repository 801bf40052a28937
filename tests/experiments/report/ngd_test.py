import math

import pytest
from scipy import stats

from experiments.report.comparison import ngd_comparisons
from experiments.report.ngd import ngd_section, ngd_study, welch_difference
from experiments.report.runs import find_runs
from experiments.report.seeds import seed_mean
from tests.helpers.synthetic_runs import estimate, write_run


def study_of(folder, accuracies):
    for optimizer, values in accuracies.items():
        for seed, value in enumerate(values):
            write_run(
                folder / f"{optimizer}-{seed}",
                accuracy=value,
                optimizer=optimizer,
                seed=seed,
            )
    runs, _ = find_runs(str(folder))
    [comparison] = ngd_comparisons(runs)
    return ngd_study(comparison)


def test_the_difference_has_welchs_interval():
    first, second = [1.0, 2.0, 4.0], [3.0, 4.0, 6.0]
    value, low, high = welch_difference(seed_mean(first), seed_mean(second))
    # Of equal variances and sizes, so that the degrees of freedom are whole.
    expected = stats.ttest_ind(first, second, equal_var=False)
    ends = expected.confidence_interval(0.95)
    assert value == pytest.approx(-2)
    assert (low, high) == pytest.approx((ends.low, ends.high))


def test_degrees_of_freedom_are_rounded_down():
    first, second = [1.0, 2.0, 4.0, 4.5], [3.0, 4.0]
    _, low, high = welch_difference(seed_mean(first), seed_mean(second))
    exact = stats.ttest_ind(first, second, equal_var=False)
    assert 2 < exact.df < 4
    reach = stats.t.ppf(0.975, math.floor(exact.df)) * exact._standard_error
    assert (high - low) / 2 == pytest.approx(reach)


def test_ngd_less_sgd_is_told_apart_by_its_interval(tmp_path):
    study = study_of(
        tmp_path, {"ngd": [0.80, 0.81, 0.82], "sgd": [0.90, 0.91, 0.92]}
    )
    value, low, high = study.difference["accuracy"]
    assert value == pytest.approx(-0.1)
    assert high < 0
    text = "\n".join(ngd_section(study, ("a.png",)).paragraphs)
    assert "-10.00 percentage points" in text and ": told apart" in text


def test_one_seed_tells_nothing_apart(tmp_path):
    study = study_of(tmp_path, {"ngd": [0.8], "sgd": [0.9]})
    assert study.difference["accuracy"][1:] == (-math.inf, math.inf)
    section = ngd_section(study, ("a.png",))
    text = "\n".join(section.paragraphs)
    assert "undetermined" in text and "one seed only" in text
    assert "no band" in section.figures["a.png"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_measured_noise_gives_a_closeness(tmp_path, seeds):
    for optimizer, scale in (("ngd", 1.1), ("sgd", 1.0)):
        for seed in range(seeds):
            scaled = scale * (1 + 0.01 * seed)
            write_run(
                tmp_path / f"{optimizer}-{seed}",
                noise=estimate(0.3 * scaled, 1.5 * scaled),
                weight_sq_norm=20 * scaled,
                optimizer=optimizer,
                seed=seed,
            )
    [comparison] = ngd_comparisons(find_runs(str(tmp_path))[0])
    text = "\n".join(ngd_section(ngd_study(comparison), ("a.png",)).paragraphs)
    assert "SGD is C-close to NGD for C = 1.1" in text
    assert "Ratios of NGD to SGD" in text and "R 1.1" in text
    assert ("no interval: one seed" in text) == (seeds == 1)
    assert ("95%" in text) == (seeds > 1)
