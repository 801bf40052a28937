import math

import pytest

from experiments.report.linear_scaling import LinearScaling
from tests.helpers.synthetic_runs import (
    cells_of,
    estimate,
    studies_of,
    study_of,
    text_of,
    window,
    write_run,
    write_scaling_sweep,
)

GOOD = {8: 0.10, 16: 0.10, 32: 0.10, 64: 0.11}


def write_two(folder, **run):
    """One seed of batch sizes 8 and 16, with little noise."""
    for size in (8, 16):
        rates = {"batch_size": size, "learning_rate": 0.025 * size}
        noise = estimate(0.1, 1.0, size, count=50)
        write_run(folder / str(size), **{"noise": noise, **rates, **run})


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


@pytest.mark.parametrize("ell", [1, 4])
def test_each_batch_size_has_its_bound_and_the_first_its_least_closeness(
    tmp_path, ell
):
    write_scaling_sweep(tmp_path, {**GOOD, 256: 0.1}, ell=ell)
    study = study_of(tmp_path, LinearScaling)
    # SVAG's runs, with ell in all, have the identity of SGD at η/ell, G/ell.
    first_q, first_u = 6.0 * ell, 0.001 / ell
    for size, row in study.rows.items():
        kappa = size / 8
        q, u = first_q / kappa, kappa * first_u
        assert row["N/G"][1] == pytest.approx(q / ell)
        assert row["η"] == 0.2 * kappa
        low, point, high = row["B*"]
        assert point == pytest.approx(size * kappa_max(q, u))
        assert low < point < high
        if size == 8:
            continue
        rho = (2 - u) / (2 - first_u)
        least = math.sqrt((kappa + first_q) / ((1 + first_q) * rho))
        low, value, high = row["C at least"]
        assert value == pytest.approx(least)
        assert low <= value <= high
        # G is equal and N/G inversely proportional to B, hence κN' = N.
        assert row["C"][1] == pytest.approx(1)


def test_what_is_judged_is_measured_before_the_decay(tmp_path):
    for size in (8, 16):
        rate = 0.025 * size
        before = window(estimate(0.3, 14.4 / size, size), 25.0, rate)
        write_run(
            tmp_path / str(size),
            noise=estimate(9.0, 9.0, size),
            weight_sq_norm=1.0 * size,
            earlier=[before],
            batch_size=size,
            learning_rate=rate,
            results={"linear_scaling.conditions.learning_rate": 0.001},
        )
    study = study_of(tmp_path, LinearScaling)
    points = [point for _, point, _ in study.column("N/G").values()]
    assert points == pytest.approx([6, 3])
    assert [*study.column("η").values()] == [0.2, 0.4]
    assert study.bounds[8][1] == pytest.approx(8 * kappa_max(6.0, 0.001))
    # One seed has no error: C counts as exact, and no interval is shown.
    c = study.closeness(16, 8)
    assert c.low == c.value == c.high == pytest.approx(1)
    assert cells_of(study)["C"] == "1"


def test_the_growth_of_the_error_is_an_observation_beside_it(tmp_path):
    errors = {8: 0.3, 16: 0.10, 32: 0.11, 64: 0.119, 128: 0.121, 256: 0.115}
    write_scaling_sweep(tmp_path, errors)
    study = study_of(tmp_path, LinearScaling)
    # 8 is below the best batch size: large batches are what breaks.
    assert (study.best, study.error_grows_at) == (16, 128)
    ratio = 128 / (8 * kappa_max(6.0, 0.001))
    text = text_of(study)
    assert "of which the theorem says nothing" in text
    assert "The least, 0.1, is that of B = 16; " in text
    grown = "B = 128 is the first to exceed it by more than 20% of its value"
    assert f"{grown}, at {ratio:.3g} times B*." in text


@pytest.mark.parametrize(
    ("factors", "outcome"),
    [
        # κ_max at q = 6 is 8, so B* = 64.
        ({128: (2, 2)}, "held"),
        # C-close, although the condition rules it out.
        ({128: (1.1, 1.1)}, "failed"),
        ({128: (2, 2), 256: (1.1, 1.1)}, "failed"),
        ({128: (2, 2), 256: (1.25, 1.5)}, "undetermined"),
        ({128: (1.1, 1.1), 256: (1.25, 1.5)}, "failed"),
        # Within the bound nothing is claimed, close or not.
        ({32: (3, 3)}, "not tested"),
    ],
)
def test_the_condition_is_tested_by_r_g_and_n(tmp_path, factors, outcome):
    # The error, which is the same at all batch sizes, has no say.
    write_scaling_sweep(tmp_path, dict.fromkeys([8, *factors], 0.1), factors)
    study = study_of(tmp_path, LinearScaling)
    assert study.tested(8) == outcome
    for size, verdict in study.column("from B = 8").items():
        assert (verdict == "ruled out") == (size > 64)
    assert f"C-close in R, G and N: {outcome}" in text_of(study)


def test_a_run_that_diverged_is_not_close(tmp_path):
    write_scaling_sweep(tmp_path, {**GOOD, 128: None})
    # One of three seeds of 64: its accuracy is 0.
    third = {"losses": [1.0, math.nan], "finished": False, "seed": 2}
    third |= {"batch_size": 64, "learning_rate": 1.6}
    write_run(tmp_path / "third", **third)
    study = study_of(tmp_path, LinearScaling)
    assert study.tested(8) == "held"
    assert study.means[64]["accuracy"].value == pytest.approx(2 / 3 * 0.89)
    assert study.error_grows_at == 64
    assert study.diverged == {64: 1, 128: 2}
    assert study.bounds[128] is study.closeness(128, 8) is None
    assert "(2 diverged)" in text_of(study)


@pytest.mark.parametrize("ell", [1, 2])
def test_runs_of_several_ell_predict_where_c_is_left(tmp_path, ell):
    write_scaling_sweep(tmp_path, GOOD, ell=ell)
    # ln N falls by 0.2 from ell 2 to SGD, so by 0.4 a κ at B = 16.
    for other, factor in ((1, 1.0), (2, math.exp(0.2))):
        for seed, spread in enumerate((0.99, 1.01)):
            write_run(
                tmp_path / f"svag-{other}-{seed}",
                noise=estimate(0.3, 0.9 * factor * spread, 16),
                batch_size=16,
                learning_rate=0.4,
                ell=other,
                pairing="halves",
                seed=seed,
            )
    study, *_ = studies_of(tmp_path, LinearScaling)
    # SVAG with ell at B is SGD at B/ell.
    unit = 16 * ell
    rise = 2 * (1 - math.exp(-0.2))

    def inverse_noise(kappa):
        return math.exp(-0.2) + rise * (kappa - 0.5)

    first = inverse_noise(8 / unit)
    low, value, high = study.rows[32]["C predicted"]
    assert value == pytest.approx(inverse_noise(32 / unit) / first)
    assert low < value < high
    leaves = 8 + unit * (2**0.5 - 1) * first / rise
    assert study.leaves_at[0] == pytest.approx(leaves)
    assert f"leaves C = 1.41 at about B = {leaves:.3g} [" in text_of(study)
    study.make([], "scaling-1")
    assert [*study.pictures] == ["scaling-1-batch-sizes", "scaling-1-closeness"]


def test_runs_of_another_noise_scale_predict_nothing(tmp_path):
    write_two(tmp_path)
    for ell in (1, 2):
        noise = estimate(0.3, 1.5)
        write_run(tmp_path / f"{ell}", noise=noise, learning_rate=0.5, ell=ell)
    study, *_ = studies_of(tmp_path, LinearScaling)
    assert study.leaves_at is None
    assert "--sweep ell=1,2" in text_of(study)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"optimizer": "adam"}, "square-root scaling rule"),
        ({"weight_decay": 20.0}, "no condition"),
        ({"noise": None}, "no condition"),
    ],
)
def test_without_a_condition_there_is_no_bound(tmp_path, run, words):
    # Of Adam, of weights that diverge, of what was not measured.
    write_two(tmp_path, **run)
    study = study_of(tmp_path, LinearScaling)
    for column in ("B*", "from B = 8", "C at least"):
        assert study.column(column) == {}
    assert not any(map(study.tested, study.groups))
    assert words in text_of(study)
    study.make([], "scaling-1")


def test_reasons_against_the_theorem_make_it_a_heuristic(tmp_path):
    write_two(tmp_path, reasons=["a <reason>"])
    text = text_of(study_of(tmp_path, LinearScaling))
    assert "only a heuristic: a <reason>." in text


def test_a_signal_that_is_not_above_0_leaves_the_figures(tmp_path):
    for size, signal in ((8, 0.1), (16, -0.01), (32, 0.1)):
        rates = {"batch_size": size, "learning_rate": 0.025 * size}
        noise = estimate(signal, 8 / size, size, count=50)
        write_run(tmp_path / str(size), noise=noise, **rates)
    study = study_of(tmp_path, LinearScaling)
    assert study.closeness(16, 8).value == math.inf
    study.make([], "scaling-1")
    assert len(study.pictures) == 2
