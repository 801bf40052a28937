import pytest
from matplotlib.figure import Figure

from experiments.report.linear_scaling import LinearScaling
from experiments.report.square_root_scaling import SquareRootScaling
from experiments.report.study import ACCURACY, LOSS
from keras_svag.scaling import square_root_scaling_rule
from tests.helpers.synthetic_runs import (
    cells_of,
    estimate,
    in_norm_of_adam,
    studies_of,
    study_of,
    text_of,
    write_run,
)

NUMBERS = {
    "learning_rate": 0.01,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-7,
    "weight_decay": 0.1,
}
ADAM = {"optimizer": "adam", **NUMBERS}


def scaled(kappa, **baseline):
    numbers = square_root_scaling_rule(kappa=kappa, **NUMBERS | baseline)
    return {"optimizer": "adam", **numbers}


def write_sweep(folder, sizes, signals, error=1e-3, config=None, **baseline):
    """Runs by the rule: N_P is 3 at the smallest batch size, G_P a seed's."""
    for size in sizes:
        kappa = size / sizes[0]
        run = scaled(kappa, **baseline) | (config or {})
        for seed, signal in enumerate(signals):
            write_run(
                folder / f"{size}-{seed}",
                noise=estimate(0.3, 1.5),
                results=in_norm_of_adam(
                    estimate(signal, 3 / kappa, size, error)
                ),
                batch_size=size,
                seed=seed,
                **run,
            )


def sizes_of(folder):
    """Batch sizes and numbers of runs of each comparison in a folder."""
    return [
        {size: len(runs) for size, runs in study.groups.items()}
        for study in studies_of(folder, SquareRootScaling)
    ]


# Neither thirds nor their products end in decimals.
@pytest.mark.parametrize("rate", [0.01, 0.001 / 3])
def test_runs_by_the_rule_are_one_comparison(tmp_path, rate):
    sizes = [16, 48, 64, 100, 112]
    write_sweep(tmp_path, sizes, (1, 1), learning_rate=rate)
    assert sizes_of(tmp_path) == [dict.fromkeys(sizes, 2)]
    assert studies_of(tmp_path, LinearScaling) == []


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_that_is_not_scaled_is_another_setting(tmp_path, key):
    # So near to 1 that only 1 - β tells two apart.
    adam = ADAM | {"beta_2": 0.99999}
    two, four = (scaled(kappa, beta_2=0.99999) for kappa in (2, 4))
    write_run(tmp_path / "16", batch_size=16, **adam)
    write_run(tmp_path / "32", batch_size=32, **two | {key: adam[key]})
    assert sizes_of(tmp_path) == []
    write_run(tmp_path / "64", batch_size=64, **four)
    assert sizes_of(tmp_path) == [{16: 1, 64: 1}]


def test_defaults_that_are_left_out_are_the_optimizers(tmp_path):
    few = {k: ADAM[k] for k in ("optimizer", "learning_rate", "weight_decay")}
    write_run(tmp_path / "16", batch_size=16, **few)
    # The same with the defaults written down is no second seed.
    write_run(tmp_path / "again", batch_size=16, **ADAM)
    write_run(tmp_path / "32", batch_size=32, **scaled(2))
    assert sizes_of(tmp_path) == [{16: 1, 32: 1}]


def test_rmsprop_has_its_epsilon_within_the_root(tmp_path):
    rmsprop = {"optimizer": "rmsprop", "learning_rate": 0.01, "rho": 0.95}
    write_run(tmp_path / "16", batch_size=16, epsilon=0.1, **rmsprop)
    four = square_root_scaling_rule(0.01, 4, rho=0.95, weight_decay=0.005)
    four |= {"optimizer": "rmsprop", "batch_size": 64}
    write_run(tmp_path / "64", epsilon=0.1 / 2, **four)
    assert sizes_of(tmp_path) == []
    write_run(tmp_path / "right", epsilon=0.1 / 4, **four)
    assert sizes_of(tmp_path) == [{16: 1, 64: 1}]


@pytest.mark.parametrize("ell", [1, 4])
def test_the_bound_is_the_condition_at_the_noise_of_each(tmp_path, ell):
    # m²/4 + s of this batch size, m²/4 + s/κ of the other: q is 4 times.
    config = {"optimizer": "svag_adam", "ell": ell}
    signals, sizes = (1, 0.999, 1.001), [8, 16, 32, 64, 128]
    write_sweep(tmp_path, sizes, signals, config=config, beta_1=0.99)
    study = study_of(tmp_path, SquareRootScaling)
    for size, row in study.rows.items():
        # Of all seeds together; C² = 2.
        q = 3 / (size / 8)
        assert row["q_P"][1] == pytest.approx(q)
        expected = size * (2 + ell * q)
        low, point, high = row["B*"]
        assert point == pytest.approx(expected)
        assert low < point < high < 1.01 * expected
    largest = 8 * (2 + 3 * ell)
    assert study.column("from B = 8") == {
        size: "ruled out" if size > largest else "not ruled out"
        for size in sizes[1:]
    }
    text = text_of(study)
    bound = f"up to B = {largest} and ruled out beyond {largest}"
    assert f"{bound} (point estimate B* = {largest})" in text
    assert "derived for this project" in text
    cells = cells_of(study, 1)
    assert (cells["B"], cells["β₁"]) == ("16", "0.98")
    assert cells["q_P"].startswith("1.5 [")
    figure = Figure()
    study.draw_batch_sizes(figure)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["q_P (dimensionless)", ACCURACY, LOSS]


def test_noise_without_an_upper_end_rules_nothing_out(tmp_path):
    write_sweep(tmp_path, [8, 16, 32, 640], (1,), error=0.9, beta_1=0.99)
    study = study_of(tmp_path, SquareRootScaling)
    verdicts = [*study.column("from B = 8").values()]
    assert verdicts == ["not ruled out", *2 * ["undetermined"]]
    assert "no larger batch size is ruled out" in text_of(study)


def test_runs_by_the_linear_rule_stand_beside(tmp_path):
    for size in (16, 32, 64):
        kappa = size / 16
        write_run(tmp_path / f"{size}", batch_size=size, **scaled(kappa))
        # Left to the optimizer what the rule does not scale.
        linear = {"learning_rate": 0.01 * kappa, "weight_decay": 0.1}
        write_run(
            tmp_path / f"linear-{size}",
            accuracy=0.5 + size / 1000,
            batch_size=size,
            optimizer="adam",
            **linear,
        )
    study = study_of(tmp_path, SquareRootScaling)
    accuracies = [means["accuracy"].value for means in study.linear.values()]
    assert accuracies == pytest.approx([0.516, 0.532, 0.564])
    assert cells_of(study)["accuracy, linear"] == "56.40%"
