import json
import math

import pytest

from experiments.report.batch_sizes import ScalingStudy, linear_comparisons
from experiments.report.batch_sizes_section import scaling_section
from experiments.report.runs import find_runs
from tests.helpers.synthetic_runs import (
    comparison_of,
    estimate,
    text_of,
    write_run,
    write_scaling_sweep,
)

GOOD = {8: 0.10, 16: 0.10, 32: 0.10, 64: 0.11}


def study_of(folder):
    return ScalingStudy(comparison_of(folder, linear_comparisons), "linear")


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


def test_each_batch_size_has_its_bound_and_the_first_its_least_closeness(
    tmp_path,
):
    write_scaling_sweep(tmp_path, {**GOOD, 256: 0.1}, ratio_at_first=6.0)
    first, *_ = batches = study_of(tmp_path).batches
    for batch in batches:
        kappa, u = batch.batch_size / 8, 0.001
        q = 6.0 / kappa
        assert batch.ratio[1] == pytest.approx(q)
        low, point, high = batch.bound
        expected = batch.batch_size * kappa_max(q, kappa * u)
        assert point == pytest.approx(expected)
        assert low < point < high
        if batch is first:
            continue
        rho = (2 - kappa * u) / (2 - u)
        low, value, high = batch.min_closeness
        assert value == pytest.approx(math.sqrt((kappa + 6) / (7 * rho)))
        assert low <= value <= high
        # G is equal and N/G inversely proportional to B, hence κN' = N.
        assert batch.closeness.value == pytest.approx(1)


def test_the_growth_of_the_error_is_an_observation_beside_it(tmp_path):
    errors = {8: 0.3, 16: 0.10, 32: 0.11, 64: 0.119, 128: 0.121, 256: 0.115}
    write_scaling_sweep(tmp_path, errors)
    study = study_of(tmp_path)
    # 8 is below the best batch size: large batches are what breaks.
    assert study.best.batch_size == 16
    assert study.error_grows_at == 128
    ratio = 128 / (8 * kappa_max(6.0, 0.001))
    text = text_of(scaling_section(study))
    assert "of which the theorem says nothing" in text
    grown = "B = 128 is the first to exceed it by more than 20% of its value"
    assert f"{grown}, at {ratio:.3g} times B*." in text
    assert "safe" not in text


def write_apart(folder, factors, **sweep):
    """Runs from B = 8 on whose R, G and κN are those of 8 times factors."""
    write_scaling_sweep(folder, dict.fromkeys(factors, 0.1), **sweep)
    for size, of_seeds in factors.items():
        for seed, factor in enumerate(of_seeds):
            file = folder / f"batch_size={size},seed={seed}" / "results.json"
            results = json.loads(file.read_text())
            results["linear_scaling"]["weight_sq_norm"] *= factor
            file.write_text(json.dumps(results))


@pytest.mark.parametrize(
    ("factors", "outcome"),
    [
        # κ_max at q = 6 is 8, so B* = 64.
        ({128: (2, 2)}, "held"),
        # C-close, although the condition rules it out.
        ({128: (1.1, 1.1)}, "failed"),
        ({128: (2, 2), 256: (1.1, 1.1)}, "failed"),
        ({128: (2, 2), 256: (1.3, 1.6)}, "undetermined"),
        # Within the bound nothing is claimed, close or not.
        ({32: (3, 3)}, "not tested"),
    ],
)
def test_the_condition_is_tested_by_r_g_and_n(tmp_path, factors, outcome):
    write_apart(tmp_path, {8: (1, 1)} | factors)
    study = study_of(tmp_path)
    # The error, which is the same at all batch sizes, has no say.
    assert study.batches[0].outcome == outcome
    assert f"C-close in R, G and N: {outcome}" in text_of(
        scaling_section(study)
    )


def test_a_run_that_diverged_is_not_close(tmp_path):
    write_scaling_sweep(tmp_path, {**GOOD, 128: None})
    study = study_of(tmp_path)
    assert study.batches[0].outcome == "held"
    assert study.error_grows_at == 128
    last = study.batches[-1]
    assert last.test_error == 1 and last.num_diverged == 2
    assert last.bound is None and last.closeness is None
    assert "(2 diverged)" in text_of(scaling_section(study))


def test_runs_of_several_ell_predict_where_c_is_left(tmp_path):
    write_scaling_sweep(tmp_path, GOOD)
    # ln N falls by 0.2 from ell 2 to SGD, so by 0.4 a κ at B = 16.
    for ell, factor in ((1, 1.0), (2, math.exp(0.2))):
        for seed, spread in enumerate((0.99, 1.01)):
            write_run(
                tmp_path / f"svag-{ell}-{seed}",
                noise=estimate(0.3, 0.9 * factor * spread, 16),
                batch_size=16,
                learning_rate=0.4,
                ell=ell,
                pairing="halves",
                seed=seed,
            )
    study = study_of(tmp_path)
    at_32 = study.batches[2]
    # From κ = 8/16 to 32/16, with 1 / N linear: exp(-0.2) at 8/16, 1 at 1.
    at_half = math.exp(-0.2)
    rise = 2 * (1 - at_half)
    assert at_32.predicted[0] == pytest.approx((1 + rise) / at_half)
    assert at_32.predicted[1] < at_32.predicted[0] < at_32.predicted[2]
    leaves = 16 * (0.5 + (2**0.5 - 1) * at_half / rise)
    assert study.leaves_at[0] == pytest.approx(leaves)
    assert f"leaves C = 1.41 at about B = {leaves:.3g} [" in text_of(
        scaling_section(study)
    )
    assert {"batch-sizes", "closeness"} == set(scaling_section(study).figures)


def test_runs_of_another_noise_scale_predict_nothing(tmp_path):
    write_two(tmp_path)
    for ell in (1, 2):
        write_run(
            tmp_path / f"svag-{ell}",
            noise=estimate(0.3, 1.5),
            learning_rate=0.5,
            ell=ell,
        )
    runs = find_runs(str(tmp_path))[0]
    study = ScalingStudy(linear_comparisons(runs)[0], "linear")
    assert study.leaves_at is None
    assert "--sweep ell=1,2" in text_of(scaling_section(study))


def test_an_adaptive_optimizer_has_no_condition(tmp_path):
    write_two(tmp_path, optimizer="adam")
    study = study_of(tmp_path)
    assert all(batch.bound is None for batch in study.batches)
    section = scaling_section(study)
    assert "square-root scaling rule" in text_of(section)
    # Of which there is no noise to draw.
    section.figures["batch-sizes"][1](tmp_path / "figure.png")


def test_reasons_against_the_theorem_make_it_a_heuristic(tmp_path):
    write_two(tmp_path, reasons=["a <reason>"])
    assert "only a heuristic: a <reason>." in text_of(
        scaling_section(study_of(tmp_path))
    )
