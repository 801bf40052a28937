import json
import math

import keras
import pytest
from scipy import stats

from experiments.report.batch_sizes import (
    ScalingStudy,
    linear_comparisons,
    square_root_comparisons,
)
from experiments.report.batch_sizes_section import scaling_section
from experiments.report.runs import find_runs
from experiments.report.seeds import ratio_of
from experiments.run_folder import CHECKSUM, configuration_checksum
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling import square_root_scaling_rule
from keras_svag.scaling.conditions import conditions_of
from tests.helpers.synthetic_runs import (
    comparison_of,
    estimate,
    text_of,
    write_run,
)

ADAM = {
    "optimizer": "adam",
    "learning_rate": 0.01,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-7,
    "weight_decay": 0.1,
}


def scaled(kappa, **baseline):
    numbers = {**ADAM, **baseline}
    name = numbers.pop("optimizer")
    return square_root_scaling_rule(kappa=kappa, **numbers) | {
        "optimizer": name
    }


def write(folder, preconditioned=None, **run):
    """A run whose noise in the norm of the optimizer is an estimate."""
    if preconditioned is None:
        write_run(folder, **run)
        return
    write_run(folder, noise=estimate(0.3, 1.5), **run)
    path = folder / "results.json"
    results = json.loads(path.read_text())
    conditions = conditions_of(keras.optimizers.Adam())
    results["linear_scaling"] |= {
        "gradient_noise": preconditioned.to_dict(),
        "conditions": conditions.to_dict(),
    }
    path.write_text(json.dumps(results))


def write_sweep(folder, sizes, of_seeds, error=1e-3, **baseline):
    """Runs by the rule; `{seed: (G_P, N_P)}` at the smallest batch size."""
    for size in sizes:
        for seed, (signal, noise) in of_seeds.items():
            kappa = size / sizes[0]
            write(
                folder / f"{size}-{seed}",
                estimate(signal, noise / kappa, size, error),
                batch_size=size,
                seed=seed,
                **scaled(kappa, **baseline),
            )


def study_of(folder):
    comparison = comparison_of(folder, square_root_comparisons)
    return ScalingStudy(comparison, "square_root")


def found(folder):
    runs, *_ = find_runs(str(folder))
    return square_root_comparisons(runs)


# Neither thirds nor their products end in decimals.
@pytest.mark.parametrize("rate", [0.01, 0.001 / 3])
def test_runs_by_the_rule_are_one_comparison(tmp_path, rate):
    sizes = [16, 48, 64, 100, 112]
    write_sweep(tmp_path, sizes, {0: (1, 5), 1: (1, 5)}, learning_rate=rate)
    [comparison] = found(tmp_path)
    assert list(comparison.groups) == sizes
    assert comparison.num_seeds == 2
    runs, *_ = find_runs(str(tmp_path))
    assert linear_comparisons(runs) == []


@pytest.mark.parametrize(
    "key", ["learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay"]
)
def test_a_number_that_is_not_scaled_is_another_setting(tmp_path, key):
    # So near to 1 that only 1 - β tells two apart.
    adam = ADAM | {"beta_2": 0.99999}
    two, four = (scaled(kappa, beta_2=0.99999) for kappa in (2, 4))
    write(tmp_path / "16", batch_size=16, **adam)
    write(tmp_path / "32", batch_size=32, **two | {key: adam[key]})
    assert found(tmp_path) == []
    write(tmp_path / "64", batch_size=64, **four)
    [comparison] = found(tmp_path)
    assert list(comparison.groups) == [16, 64]


def test_defaults_that_are_left_out_are_the_optimizers(tmp_path):
    few = {k: ADAM[k] for k in ("optimizer", "learning_rate", "weight_decay")}
    write(tmp_path / "16", batch_size=16, **few)
    # The same with the defaults written down is no second seed.
    write(tmp_path / "again", batch_size=16, **ADAM)
    write(tmp_path / "32", batch_size=32, **scaled(2))
    [comparison] = found(tmp_path)
    assert [len(runs) for runs in comparison.groups.values()] == [1, 1]


def test_rmsprop_has_its_epsilon_within_the_root(tmp_path):
    rmsprop = {"optimizer": "rmsprop", "learning_rate": 0.01, "rho": 0.95}
    write(tmp_path / "16", batch_size=16, epsilon=0.1, **rmsprop)
    four = square_root_scaling_rule(0.01, 4, rho=0.95, weight_decay=0.005)
    four["optimizer"] = "rmsprop"
    write(tmp_path / "64", batch_size=64, epsilon=0.1 / 2, **four)
    assert found(tmp_path) == []
    write(tmp_path / "right", batch_size=64, epsilon=0.1 / 4, **four)
    assert len(found(tmp_path)) == 1


def test_noise_is_that_of_all_seeds_together(tmp_path):
    values = {0: (1.0, 4.0), 1: (2.0, 7.0), 2: (1.5, 8.0)}
    error, count = 0.2, 10
    for seed, (signal, noise) in values.items():
        preconditioned = estimate(signal, noise, 16, error, count)
        write(tmp_path / str(seed), preconditioned, seed=seed, **ADAM)
    runs, *_ = find_runs(str(tmp_path))
    low, point, high = ratio_of(
        NoiseEstimate.over_runs([run.preconditioned_noise for run in runs])
    )
    # The mean is of each, not of ratios.
    assert point == pytest.approx(19 / 4.5)

    def variances(q):
        return [error**2 * (n**2 + q**2 * g**2) for g, n in values.values()]

    parts = variances(point)
    dof = sum(parts) ** 2 / sum(part**2 / (count - 1) for part in parts)
    # Fieller: where the sum of N - q G is t standard errors from 0.
    for q in (low, high):
        distance = (19 - 4.5 * q) / math.sqrt(sum(variances(q)))
        assert abs(distance) == pytest.approx(stats.t.ppf(0.975, dof))
    assert 0 < low < point < high


def test_the_bound_is_the_condition_at_the_noise_of_each(tmp_path):
    write_sweep(
        tmp_path, [8, 16, 32, 64], {0: (1, 3), 1: (1, 3.001), 2: (1, 2.999)}
    )
    study = study_of(tmp_path)
    for batch, kappa in zip(study.batches, (1, 2, 4, 8), strict=True):
        q = 3 / kappa
        # C² = 2.
        expected = batch.batch_size * (2 + q)
        low, point, high = batch.bound
        assert point == pytest.approx(expected)
        assert low < point < high < 1.01 * expected
    # 8 (2 + 3) = 40.
    verdicts = [batch.verdict for batch in study.batches]
    assert verdicts == [None, "not ruled out", "not ruled out", "ruled out"]
    text = text_of(scaling_section(study))
    assert "not ruled out up to B = 40 and ruled out beyond 40" in text
    assert "derived for this project" in text and "safe" not in text


def test_noise_without_an_upper_end_rules_nothing_out(tmp_path):
    write_sweep(tmp_path, [8, 16, 32, 640], {0: (1, 3)}, error=0.9, beta_1=0.99)
    study = study_of(tmp_path)
    verdicts = [batch.verdict for batch in study.batches]
    assert verdicts == [None, "not ruled out", *2 * ["undetermined"]]
    assert "no larger batch size is ruled out" in text_of(
        scaling_section(study)
    )


def test_svag_has_the_signals_share_of_its_ell(tmp_path):
    seeds = {0: (1, 3), 1: (1, 3)}
    write_sweep(tmp_path, [8, 16], seeds, optimizer="svag_adam")
    adam = study_of(tmp_path).batches[0].bound[1]
    for folder in tmp_path.iterdir():
        path = folder / "config.json"
        config = {**json.loads(path.read_text()), "ell": 4}
        path.write_text(json.dumps(config))
        path = folder / "results.json"
        checksum = {CHECKSUM: configuration_checksum(config)}
        results = {**json.loads(path.read_text()), **checksum}
        path.write_text(json.dumps(results))
    # m²/4 + s of this batch size, m²/4 + s/κ... of the other: q is 4 times.
    assert adam == pytest.approx(8 * (2 + 3))
    assert study_of(tmp_path).batches[0].bound[1] == pytest.approx(8 * 14)


def test_runs_by_the_linear_rule_stand_beside(tmp_path):
    for size in (16, 32, 64):
        kappa = size / 16
        write(tmp_path / f"{size}", batch_size=size, **scaled(kappa))
        # Left to the optimizer what the rule does not scale.
        linear = {"learning_rate": 0.01 * kappa, "weight_decay": 0.1}
        write(
            tmp_path / f"linear-{size}",
            accuracy=0.5 + size / 1000,
            batch_size=size,
            optimizer="adam",
            **linear,
        )
    study = study_of(tmp_path)
    accuracies = [final["accuracy"].value for final in study.linear.values()]
    assert accuracies == pytest.approx([0.516, 0.532, 0.564])
    text = text_of(scaling_section(study))
    assert "accuracy, linear" in text and "56.40%" in text


def test_the_figure_is_drawn(tmp_path):
    write_sweep(tmp_path, [8, 16, 32], {0: (1, 3), 1: (0.1, 3)})
    [(_, save)] = scaling_section(study_of(tmp_path)).figures.values()
    save(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
