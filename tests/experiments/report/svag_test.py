import math

import numpy as np
import pytest
from scipy import stats

from experiments.report.svag import SVAGStudy
from keras_svag.scaling.reasons import Reason
from tests.helpers.synthetic_runs import (
    cells_of,
    edit,
    study_of,
    text_of,
    write_run,
    write_scaled_runs,
    write_svag_sweep,
)


def write_pair(folder, sgd_factor, spread=0.01, **runs):
    """SGD whose R, G and N are `sgd_factor` times those of ell 4."""
    seeds = [1 - spread, 1, 1 + spread]
    factors = {1: [sgd_factor * seed for seed in seeds], 4: seeds}
    write_scaled_runs(folder, factors, **runs)


def test_the_limit_is_that_of_an_error_in_1_over_ell(tmp_path):
    write_svag_sweep(tmp_path, ells=(1, 2, 4, 8), excess=0.2)
    study = study_of(tmp_path, SVAGStudy)
    # The runs' R is 20 (1 + 0.2 / ell), G and N alike.
    limits = {"weight_sq_norm": 20, "grad_sq_norm": 0.3, "noise_trace": 1.5}
    for name, limit in limits.items():
        found = study.limit[name]
        assert found.value == pytest.approx(limit, rel=1e-9)
        # Seeds at 0.99, 1 and 1.01 times the mean.
        at_4, at_8 = limit * 1.05, limit * 1.025
        expected = 0.01 / math.sqrt(3) * math.hypot(2 * at_8, at_4)
        assert found.standard_error == pytest.approx(expected, rel=1e-9)
    # SGD's closeness is that to the largest ell.
    ratio = (1 + 0.2 / 8) / (1 + 0.2)
    assert study.closeness.value == pytest.approx(1 / ratio)
    assert study.closeness.low < 1 / ratio < study.closeness.high
    for found, _, _ in study.closeness.ratios.values():
        assert found == pytest.approx(ratio)
    error = study.limit["weight_sq_norm"].standard_error
    cells = cells_of(study)
    assert cells["R"] == f"20.00 ± {error:.2f}"
    assert cells["ell"] == "→ ∞ (estimate)"


# SGD's factor, what `write_pair` takes besides, whether one run is known to be
# at rest, the verdict, and what the reason says.
FEW = "1 of 6 runs had"
NOISELESS, CLIPPED = {"noise_trace": 0.1}, {"reasons": ["clipped"]}
VERDICTS = [
    (1.05, {}, True, "supported", "lies at or below C"),
    (2.0, {}, True, "contradicted", "lies above C"),
    (1.40, {}, True, "undetermined", "contains C"),
    # Seeds that differ by so much decide nothing.
    (2.0, {"spread": 0.3}, True, "undetermined", "contains C"),
    # N/G is ruled out to be enough, by a theorem or by a heuristic.
    (1.05, NOISELESS, True, "contradicted", "N/G is too small"),
    (1.05, NOISELESS | CLIPPED, True, "undetermined", "only a heuristic"),
    (1.05, {}, False, "undetermined", f"{FEW} not reached equilibrium"),
    (2.0, {}, False, "undetermined", f"{FEW} not reached equilibrium"),
    (1.05, {}, None, "supported", f"{FEW} reached equilibrium is not known"),
    (2.0, {}, None, "contradicted", f"{FEW} reached equilibrium is not known"),
]


@pytest.mark.parametrize("factor, runs, rest, verdict, reason", VERDICTS)
def test_the_verdict_and_its_reason(
    tmp_path, factor, runs, rest, verdict, reason
):
    write_pair(tmp_path, factor, **runs)
    rests = {"linear_scaling.conditions.rest": rest}
    edit(tmp_path / "1-0" / "results.json", rests)
    study = study_of(tmp_path, SVAGStudy)
    assert study.verdict == verdict
    assert reason in study.reason
    text = text_of(study)
    assert f"The SDE approximation is {verdict} at this setting: " in text
    known = "5 of 6 runs are known to have reached equilibrium"
    known += ", 1 not to have: " if rest is False else ": "
    assert (known in text) == (rest is not True)
    # The balance of a run on its way says nothing.
    assert (study.condition.balance is None) == (rest is False)
    if "noise_trace" in runs:
        condition = study.condition
        assert condition.sde_verdict == "ruled out"
        # 1 / (C² (1 - ηλ/2) - 1) at C² = 2.
        least = 1 / (1 - 0.2 * 0.005)
        assert condition.min_noise_to_signal == pytest.approx(least)
        codes = runs.get("reasons", ())
        assert condition.reasons == tuple(map(Reason, codes))
        assert ("It is only a heuristic here: " in text) == bool(codes)


@pytest.mark.parametrize(
    ("factors", "limit", "verdict", "reason"),
    [
        # 1 + excess / ell: C is in the interval of the limit, or below it.
        ({1: 1.2, 4: 1.05, 8: 1.025}, 1.2, "supported", "at or below C"),
        ({1: 1.38, 4: 1.095, 8: 1.0475}, 1.38, "supported", "∞ contains it"),
        # The limit is 0.65.
        ({1: 1.35, 2: 1.0}, 1.35 / 0.65, "undetermined", "larger ell would"),
    ],
)
def test_a_limit_beyond_c_is_said_or_withholds_support(
    tmp_path, factors, limit, verdict, reason
):
    seeds = 1 + 4e-3 * np.arange(6)
    of_seeds = {ell: factor * seeds for ell, factor in factors.items()}
    write_scaled_runs(tmp_path, of_seeds)
    study = study_of(tmp_path, SVAGStudy)
    assert study.closeness.high < 2**0.5
    assert study.limit_closeness.value == pytest.approx(limit)
    assert study.verdict == verdict
    assert reason in study.reason
    is_said = "ell → ∞" in study.reason
    assert (study.limit_closeness.high > 2**0.5) == is_said


def test_the_limit_of_two_ell_knows_that_sgd_is_in_it(tmp_path):
    rng = np.random.default_rng(3)
    factors = 1 + 0.02 * rng.normal(size=(2, 40))
    write_scaled_runs(tmp_path, dict(zip((1, 2), factors, strict=True)))
    _, low, high = study_of(tmp_path, SVAGStudy).limit_closeness.ratios[
        "noise_trace"
    ]
    # The delta method on 2 E(2) / E(1) - 1 is right for such small errors.
    sgd, other = np.mean(factors, axis=1)
    parts = np.var(factors, axis=1, ddof=1) / 40 / [sgd**2, other**2]
    error = 2 * other / sgd * math.sqrt(sum(parts))
    dof = 39 * sum(parts) ** 2 / sum(parts**2)
    reach = stats.t.ppf(1 - 0.05 / 6, dof) * error
    assert (low + high) / 2 == pytest.approx(2 * other / sgd - 1, rel=1e-3)
    assert (high - low) / 2 == pytest.approx(reach, rel=1e-2)


def test_svag_of_adam_is_compared_with_adam(tmp_path):
    write_pair(tmp_path, 1.1, optimizer="svag_adam")
    study = study_of(tmp_path, SVAGStudy)
    assert "Adam (ell 1) is C-close to SVAG with ell 4" in text_of(study)
    assert "SGD" not in study.title
    # Neither is known of Adam: they rest on SGD's equilibrium.
    assert study.condition is study.prediction is None


def test_what_is_missing_leaves_it_undetermined(tmp_path):
    write_svag_sweep(tmp_path / "one", num_seeds=1, excess=5.0)
    write_svag_sweep(tmp_path / "no sgd", ells=(2, 4))
    write_pair(tmp_path / "diverging", 1.05, weight_decay=20.0)
    for seed, ell in ((0, 1), (1, 1), (0, 2), (1, 2)):
        folder = tmp_path / "curves" / f"{ell}-{seed}"
        write_run(folder, ell=ell, seed=seed)
    names = ("one", "no sgd", "diverging", "curves")
    studies = [study_of(tmp_path / name, SVAGStudy) for name in names]
    one, no_sgd, diverging, curves = studies
    reasons = {one: "one seed", no_sgd: "ell 1", curves: "not measured"}
    for study, reason in reasons.items():
        assert study.verdict == "undetermined" and reason in study.reason
    assert no_sgd.closeness is no_sgd.condition is diverging.condition is None
    assert curves.means[1]["accuracy"].value == pytest.approx(0.9)
    assert np.isnan(curves.means[1]["weight_sq_norm"].value)
    # One seed has no error: C counts as exact.
    _, low, high = one.closeness.ratios["weight_sq_norm"]
    assert low == pytest.approx(high, rel=1e-6)
    assert math.isnan(one.limit["accuracy"].standard_error)
    text = text_of(one)
    assert "one seed only" in text and "(no interval: one seed)" in text
    assert "no band" in one.plots()["curves"][0]


def test_the_section_predicts_and_bounds(tmp_path):
    write_pair(tmp_path, 0.8, noise_trace=1.5)
    study = study_of(tmp_path, SVAGStudy)
    # Of R, G and N the logarithms fall alike, by ln(1 / 0.8) from ell 4 to 1.
    slope = math.log(0.8) / (1 - 1 / 4)
    assert study.prediction.slopes["grad_sq_norm"] == pytest.approx(slope)
    # Their inverses grow from 0.8 to 1, and by as much in every 3/4.
    leaves = 16 * (1 + (2**0.5 - 1) * (1 - 1 / 4) / (1 - 0.8))
    low, high = (
        16 * end for end in study.prediction.max_batch_multiplier(2**0.5)[1:]
    )
    text = text_of(study)
    assert (
        "linear scaling from B = 16 leaves C = 1.41 at about B = "
        f"{leaves:.3g} [{low:.3g}, {high:.3g}]; beyond "
    ) in text
    # SGD's own N/G, 5, of which its κ_max is made.
    assert study.condition.ell == 1
    assert study.condition.max_multiplier == pytest.approx(7, abs=0.05)
    assert "C = 1.25" in text and "asked for is C = 1.41" in text
    assert "not told apart" not in text


def test_without_a_change_there_is_no_point(tmp_path):
    write_pair(tmp_path, 1.001)
    study = study_of(tmp_path, SVAGStudy)
    value, low, high = study.prediction.max_batch_multiplier(2**0.5)
    assert math.isnan(value) and math.isinf(high)
    text = text_of(study)
    assert "R, G and N are not told apart from no change" in text
    assert f"leaves C = 1.41 within [{16 * low:.3g}, ∞)" in text
    assert "nan" not in text


def test_one_seed_has_the_errors_between_its_epochs(tmp_path):
    write_svag_sweep(tmp_path / "bare", ells=(1, 2), num_seeds=1)
    sizes = study_of(tmp_path / "bare", SVAGStudy).prediction.sizes
    assert all(math.isinf(high) for _, high in sizes.values())
    # The window is that of epochs 3 and 4.
    names = ("weight_sq_norm", "grad_sq_norm", "noise_trace")
    columns = dict.fromkeys(names, (90, 90, 1.0, 1.02, 90))
    factors = {1: [1.2], 2: [1.1]}
    write_scaled_runs(tmp_path / "all", factors, columns=columns, epochs=5)
    prediction = study_of(tmp_path / "all", SVAGStudy).prediction
    size = abs(prediction.slopes["grad_sq_norm"])
    _, high = prediction.sizes["grad_sq_norm"]
    # Two epochs a run: a standard error of 0.01 of each mean, 1 degree of
    # freedom each. The means are those of results.json.
    a, b = (0.01 / (0.3 * mean) / (1 - 1 / 2) for mean in (1.2, 1.1))
    dof = (a**2 + b**2) ** 2 / (a**4 + b**4)
    reach = stats.t.ppf(0.975, dof) * math.hypot(a, b)
    assert high - size == pytest.approx(reach)
