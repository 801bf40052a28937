import math

import pytest

from experiments.report.scaling import (
    scaling_comparisons,
    scaling_section,
    scaling_study,
)
from tests.helpers.synthetic_runs import (
    comparison_of,
    estimate,
    write_run,
    write_scaling_sweep,
)

GOOD = {8: 0.10, 16: 0.10, 32: 0.10, 64: 0.11}


def study_of(folder):
    return scaling_study(comparison_of(folder, scaling_comparisons))


def text_of(study):
    return "\n".join(scaling_section(study).paragraphs)


def write_two(folder, noise=(0.1, 1.0), relative_error=0.01, **run):
    for size in (8, 16):
        write_run(
            folder / str(size),
            noise=estimate(*noise, size, relative_error, count=50),
            batch_size=size,
            learning_rate=0.01 * size,
            **run,
        )


def kappa_max(q, u):
    """The largest κ with κ <= C²ρ + (C²ρ - 1) q at C² = 2, by bisection."""
    low, high = 1.0, 2 / u
    for _ in range(200):
        kappa = (low + high) / 2
        rho = (2 - kappa * u) / (2 - u)
        if kappa <= 2 * rho + (2 * rho - 1) * q:
            low = kappa
        else:
            high = kappa
    return low


def test_every_batch_size_predicts_from_its_own_noise(tmp_path):
    write_scaling_sweep(tmp_path, GOOD, ratio_at_first=6.0)
    study = study_of(tmp_path)
    for batch in study.batches:
        q = 6.0 * 8 / batch.batch_size
        u = 0.2 * batch.batch_size / 8 * 0.005
        assert batch.noise_to_signal[0] == pytest.approx(q)
        low, point, high = batch.predicted
        assert point == pytest.approx(batch.batch_size * kappa_max(q, u))
        assert low < point < high


def test_the_interval_of_the_prediction_is_that_of_the_noise(tmp_path):
    write_scaling_sweep(tmp_path, GOOD, ratio_at_first=6.0, seeds=(0,))
    first = study_of(tmp_path).batches[0]
    # Both errors are 1%, so that Fieller's interval solves
    # (6 - q)² = t² 0.01² (6² + q²), q being N/G, with t of 999 degrees.
    t = 1.962341
    reach = (0.01 * t) ** 2
    a, b, c = 1 - reach, 6.0, 36 * (1 - reach)
    root = math.sqrt(b * b - a * c)
    for end, q in (
        (first.predicted[0], (b - root) / a),
        (first.predicted[2], (b + root) / a),
    ):
        assert end == pytest.approx(8 * kappa_max(q, 0.001), rel=1e-5)


def test_the_break_is_the_first_error_20_percent_above_the_best(tmp_path):
    errors = {8: 0.3, 16: 0.10, 32: 0.11, 64: 0.119, 128: 0.121, 256: 0.115}
    write_scaling_sweep(tmp_path, errors)
    study = study_of(tmp_path)
    # 8 is below the best batch size: large batches are what breaks.
    assert study.best.batch_size == 16
    assert study.breaks_at == 128
    assert study.last_good == 64


def test_the_prediction_held_if_no_batch_beyond_it_is_good(tmp_path):
    # κ_max at q = 6 is 8, so B* = 64.
    write_scaling_sweep(tmp_path, {**GOOD, 128: 0.2, 256: 0.5})
    study = study_of(tmp_path)
    assert study.breaks_at == 128
    assert study.batches[0].outcome == "held"
    assert study.batches[-1].outcome is None
    assert "the prediction **held**" in text_of(study)


def test_the_prediction_failed_if_a_batch_beyond_it_is_good(tmp_path):
    write_scaling_sweep(tmp_path, {**GOOD, 128: 0.1, 256: 0.5})
    study = study_of(tmp_path)
    assert study.batches[0].outcome == "failed"
    assert "the prediction **failed**" in text_of(study)


def test_the_prediction_is_not_tested_by_smaller_batches(tmp_path):
    write_scaling_sweep(tmp_path, {8: 0.1, 16: 0.1, 32: 0.1})
    study = study_of(tmp_path)
    assert study.breaks_at is None
    assert study.batches[0].outcome == "not tested"
    text = text_of(study)
    assert "no break was observed" in text and "was not tested" in text
    assert "safe" not in text


def test_breaking_before_the_prediction_is_told_apart(tmp_path):
    write_scaling_sweep(tmp_path, {8: 0.1, 16: 0.3, 128: 0.5})
    study = study_of(tmp_path)
    assert study.breaks_at == 16
    assert study.batches[0].outcome == "broke earlier"
    assert "did not foresee the break" in text_of(study)


def test_a_run_that_diverged_is_a_break(tmp_path):
    write_scaling_sweep(tmp_path, {**GOOD, 128: None})
    study = study_of(tmp_path)
    assert study.breaks_at == 128
    last = study.batches[-1]
    assert last.test_error.value == 1 and last.num_diverged == 2
    assert last.predicted is None
    assert "(2 diverged)" in text_of(study)


def test_closeness_restates_the_noise_at_one_batch_size(tmp_path):
    # G is equal and N/G inversely proportional to B, hence κN' = N.
    write_scaling_sweep(tmp_path, GOOD)
    for batch in study_of(tmp_path).batches[1:]:
        assert batch.closeness.value == pytest.approx(1)


def test_a_gradient_not_told_apart_from_0_leaves_no_upper_end(tmp_path):
    write_two(tmp_path, noise=(0.01, 1.0), relative_error=0.9)
    study = study_of(tmp_path)
    assert math.isinf(study.batches[0].noise_to_signal[2])
    assert study.batches[0].outcome == "not tested"


def test_an_adaptive_optimizer_has_no_prediction(tmp_path):
    write_two(tmp_path, optimizer="adam")
    study = study_of(tmp_path)
    assert all(batch.predicted is None for batch in study.batches)
    assert "square-root scaling rule" in text_of(study)


def test_reasons_against_the_theorem_make_it_a_heuristic(tmp_path):
    write_two(tmp_path, reasons=["a <reason>"])
    assert "only a heuristic: a &lt;reason&gt;." in text_of(study_of(tmp_path))
