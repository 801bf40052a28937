import json
import math

import numpy as np
import pytest
from scipy import stats

from experiments.report.comparison import svag_comparisons
from experiments.report.runs import find_runs
from experiments.report.sections import reasons_text
from experiments.report.svag import svag_section, svag_study
from tests.helpers.synthetic_runs import estimate, write_run, write_svag_sweep


def study_of(folder):
    runs, _ = find_runs(str(folder))
    [comparison] = svag_comparisons(runs)
    return svag_study(comparison)


def write_pair(folder, sgd_factor, spread=0.01, reasons=(), noise_trace=1.5):
    """SGD whose R, G and N are `sgd_factor` times those of ell 4."""
    for ell, factor in ((1, sgd_factor), (4, 1.0)):
        for seed, step in enumerate((-1, 0, 1)):
            scale = factor * (1 + spread * step)
            write_run(
                folder / f"{ell}-{seed}",
                noise=estimate(0.3 * scale, noise_trace * scale),
                weight_sq_norm=20 * scale,
                reasons=reasons,
                ell=ell,
                seed=seed,
            )


def test_the_limit_is_that_of_an_error_in_1_over_ell(tmp_path):
    write_svag_sweep(tmp_path, ells=(1, 2, 4, 8), excess=0.2)
    study = study_of(tmp_path)
    # The runs' R is 20 (1 + 0.2 / ell), G and N alike.
    for name, limit in (
        ("weight_sq_norm", 20),
        ("grad_sq_norm", 0.3),
        ("noise_trace", 1.5),
    ):
        value, error = study.limit[name]
        assert value == pytest.approx(limit, rel=1e-9)
        # Seeds at 0.99, 1 and 1.01 times the mean.
        at_4, at_8 = limit * 1.05, limit * 1.025
        each = 0.01 / math.sqrt(3)
        expected = each * math.sqrt((2 * at_8) ** 2 + at_4**2)
        assert error == pytest.approx(expected, rel=1e-9)


def test_the_limit_needs_no_factor_of_two(tmp_path):
    write_svag_sweep(tmp_path, ells=(1, 3, 4), excess=0.5)
    value, error = study_of(tmp_path).limit["weight_sq_norm"]
    assert value == pytest.approx(20, rel=1e-9)
    at_3, at_4 = 20 * (1 + 0.5 / 3), 20 * (1 + 0.5 / 4)
    each = 0.01 / math.sqrt(3)
    assert error == pytest.approx(each * math.hypot(4 * at_4, 3 * at_3))


def test_closeness_is_that_of_sgd_and_the_largest_ell(tmp_path):
    write_svag_sweep(tmp_path, ells=(1, 2, 8), excess=0.2)
    study = study_of(tmp_path)
    ratio = (1 + 0.2 / 8) / (1 + 0.2)
    assert study.largest_ell == 8
    assert study.closeness.value == pytest.approx(1 / ratio)
    assert study.closeness.low < 1 / ratio < study.closeness.high
    for found, _, _ in study.closeness.ratios.values():
        assert found == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("factor", "spread", "verdict"),
    [
        (1.05, 0.01, "supported"),
        (2.0, 0.01, "contradicted"),
        (1.40, 0.01, "undetermined"),
        # Seeds that differ by so much decide nothing.
        (2.0, 0.3, "undetermined"),
    ],
)
def test_the_verdict_is_that_of_the_interval(tmp_path, factor, spread, verdict):
    write_pair(tmp_path, factor, spread)
    assert study_of(tmp_path).verdict == verdict


def test_a_limit_that_is_far_withholds_support(tmp_path):
    # R is 1.35 at ell 1, 1 at ell 2, hence 0.65 in the limit: C = 2.08.
    for ell, scale in ((1, 1.35), (2, 1.0)):
        for seed in range(6):
            scaled = scale * (1 + 1e-3 * seed)
            write_run(
                tmp_path / f"{ell}-{seed}",
                noise=estimate(0.3 * scaled, 1.5 * scaled),
                weight_sq_norm=20 * scaled,
                ell=ell,
                seed=seed,
            )
    study = study_of(tmp_path)
    assert study.closeness.high < 2**0.5
    assert study.limit_closeness.value == pytest.approx(1.35 / 0.65)
    assert study.verdict == "undetermined"
    assert "larger ell would decide" in study.reason


@pytest.mark.parametrize(("excess", "is_said"), [(0.2, False), (0.38, True)])
def test_a_limit_that_is_not_told_apart_from_c_is_said(
    tmp_path, excess, is_said
):
    # C is (1 + excess) / (1 + excess / 8) to ell 8, 1 + excess to the limit.
    for ell in (1, 4, 8):
        for seed in range(6):
            scaled = (1 + excess / ell) * (1 + 4e-3 * seed)
            write_run(
                tmp_path / f"{ell}-{seed}",
                noise=estimate(0.3 * scaled, 1.5 * scaled),
                weight_sq_norm=20 * scaled,
                ell=ell,
                seed=seed,
            )
    study = study_of(tmp_path)
    assert study.verdict == "supported"
    assert (study.limit_closeness.high > 2**0.5) == is_said
    assert ("at ell → ∞ contains it" in study.reason) == is_said


def test_the_limit_of_two_ell_knows_that_sgd_is_in_it(tmp_path):
    rng = np.random.default_rng(3)
    sgd, other = 1 + 0.02 * rng.normal(size=(2, 40))
    for ell, factors in ((1, sgd), (2, other)):
        for seed, factor in enumerate(factors):
            write_run(
                tmp_path / f"{ell}-{seed}",
                noise=estimate(0.3 * factor, 1.5 * factor),
                weight_sq_norm=20 * factor,
                ell=ell,
                seed=seed,
            )
    _, low, high = study_of(tmp_path).limit_closeness.ratios["noise_trace"]
    # The delta method on 2 E(2) / E(1) - 1 is right for such small errors.
    errors = [np.std(x, ddof=1) / math.sqrt(40) for x in (sgd, other)]
    ratio = np.mean(other) / np.mean(sgd)
    error = (
        2
        * ratio
        * math.hypot(errors[0] / np.mean(sgd), errors[1] / np.mean(other))
    )
    parts = [
        error / mean
        for error, mean in zip(
            errors, (np.mean(sgd), np.mean(other)), strict=True
        )
    ]
    dof = 39 * (parts[0] ** 2 + parts[1] ** 2) ** 2
    dof /= parts[0] ** 4 + parts[1] ** 4
    reach = stats.t.ppf(1 - 0.05 / 6, dof) * error
    assert (low + high) / 2 == pytest.approx(2 * ratio - 1, rel=1e-3)
    assert (high - low) / 2 == pytest.approx(reach, rel=1e-2)


def test_too_little_noise_contradicts_where_the_theorem_applies(tmp_path):
    write_pair(tmp_path, 1.05, noise_trace=0.1)
    study = study_of(tmp_path)
    assert study.condition.verdict == "ruled out"
    # 1 / (C² (1 - ηλ/2) - 1) at C² = 2.
    assert study.condition.threshold == pytest.approx(1 / (1 - 0.2 * 0.005))
    assert study.verdict == "contradicted"


def test_too_little_noise_is_a_heuristic_where_it_does_not_apply(tmp_path):
    reason = "the loss is not scale-invariant"
    write_pair(tmp_path, 1.05, noise_trace=0.1, reasons=[reason])
    study = study_of(tmp_path)
    assert study.condition.heuristic_reasons == (reason,)
    assert study.verdict == "undetermined"


def test_one_seed_leaves_it_undetermined(tmp_path):
    write_svag_sweep(tmp_path, seeds=(0,), excess=5.0)
    study = study_of(tmp_path)
    assert study.verdict == "undetermined"
    assert "one seed" in study.reason
    assert math.isnan(study.limit["accuracy"][1])
    section = svag_section(study, ("a.png", "b.png"))
    text = "\n".join(section.paragraphs)
    assert "one seed only" in text and "(no interval: one seed)" in text
    assert "no band" in section.figures["a.png"]


def test_without_ell_1_there_is_no_sgd_to_judge(tmp_path):
    write_svag_sweep(tmp_path, ells=(2, 4))
    study = study_of(tmp_path)
    assert study.closeness is None and study.condition is None
    assert study.verdict == "undetermined"
    assert "ell 1" in study.reason


def test_runs_that_measured_no_noise_have_their_curves(tmp_path):
    for ell in (1, 2):
        for seed in (0, 1):
            write_run(tmp_path / f"{ell}-{seed}", ell=ell, seed=seed)
    study = study_of(tmp_path)
    assert study.verdict == "undetermined"
    assert study.final[1]["accuracy"].value == pytest.approx(0.9)
    assert np.isnan(study.final[1]["weight_sq_norm"].value)


def test_the_closeness_asked_for_is_that_of_the_configuration(tmp_path):
    for ell, scale in ((1, 1.6), (4, 1.0)):
        for seed in (0, 1, 2):
            scaled = scale * (1 + 0.001 * seed)
            write_run(
                tmp_path / f"{ell}-{seed}",
                noise=estimate(0.3 * scaled, 1.5 * scaled),
                weight_sq_norm=20 * scaled,
                ell=ell,
                seed=seed,
                lsr={"closeness": 2.0},
            )
    study = study_of(tmp_path)
    assert study.target == 2.0
    assert study.verdict == "supported"


def test_the_section_says_the_verdict_and_its_numbers(tmp_path):
    write_pair(tmp_path, 1.05)
    text = "\n".join(
        svag_section(study_of(tmp_path), ("a.png", "b.png")).paragraphs
    )
    assert "The SDE approximation is **supported** at this setting" in text
    assert "C = 1.05" in text and "asked for is C = 1.41" in text
    assert "→ ∞ (estimate)" in text
    assert "equilibrium:" not in text
    assert "safe" not in text


def set_balance(folder, balance):
    results = folder / "results.json"
    content = json.loads(results.read_text())
    content["linear_scaling"]["balance"] = balance
    results.write_text(json.dumps(content))


@pytest.mark.parametrize("factor", [1.05, 2.0])
def test_off_equilibrium_the_interval_decides_nothing(tmp_path, factor):
    write_pair(tmp_path, factor)
    assert study_of(tmp_path).verdict != "undetermined"
    set_balance(tmp_path / "1-0", 1.2)
    study = study_of(tmp_path)
    assert study.verdict == "undetermined"
    assert "1 of 6 runs had not reached equilibrium" in study.reason


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.05, "supported"), (2.0, "contradicted")]
)
def test_an_unknown_equilibrium_is_said(tmp_path, factor, verdict):
    write_pair(tmp_path, factor)
    set_balance(tmp_path / "1-0", None)
    study = study_of(tmp_path)
    assert study.verdict == verdict
    assert "1 of 6 runs had reached equilibrium is not known" in study.reason


def test_too_little_noise_is_enough_where_it_applies(tmp_path):
    # Its own assumptions say whether SGD is at equilibrium.
    write_pair(tmp_path, 1.05, noise_trace=0.1)
    set_balance(tmp_path / "4-2", 1.2)
    assert study_of(tmp_path).verdict == "contradicted"


def test_runs_off_equilibrium_are_counted(tmp_path):
    write_pair(tmp_path, 1.05)
    set_balance(tmp_path / "4-2", 1.2)
    section = svag_section(study_of(tmp_path), ("a.png", "b.png"))
    assert (
        "5 of 6 runs are known to have reached equilibrium, 1 not to have"
        in "".join(section.paragraphs)
    )


def test_reasons_that_differ_in_a_number_are_said_once():
    assert reasons_text(["not at rest (1.2)", "no decay"]) == (
        "not at rest (1.2); no decay"
    )
    assert reasons_text(["not at rest (1.2)", "not at rest (1.3)", "a"]) == (
        "not at rest; a"
    )
