import math

import numpy as np
import pandas

from experiments.report.linear_scaling import LinearScaling
from experiments.report.ngd import NGDStudy
from experiments.report.runs import Run
from experiments.report.seeds import differing_keys, without_repeated
from experiments.report.study import seed_curves
from experiments.report.svag import SVAGStudy

CONFIG = {
    "optimizer": "svag",
    "ell": 1,
    "batch_size": 16,
    "learning_rate": 0.2,
    "sampling": "with_replacement",
    "lsr.closeness": 1.5,
    "lsr.kappas": (2, 4),
    "seed": 0,
}


def run(name="run", **config):
    return Run(name, {**CONFIG, **config}, pandas.DataFrame(), 0.5)


def test_runs_of_several_ell_are_grouped_in_the_order_of_ell():
    runs = [run(ell=ell, seed=seed) for ell in (8, 1, 2) for seed in (0, 1)]
    [comparison] = SVAGStudy.comparisons(runs)
    assert list(comparison.groups) == [1, 2, 8]
    assert [r.config["seed"] for r in comparison.groups[8]] == [0, 1]
    assert comparison.num_seeds == 2
    assert comparison.differing == ["ell", "seed"]
    assert comparison.common["batch_size"] == 16
    assert "lsr.kappas" not in comparison.common
    [comparison] = SVAGStudy.comparisons([*runs, run(ell=4)])
    assert comparison.num_seeds == 1


def test_each_batch_size_is_a_comparison_of_ell():
    runs = [
        run(ell=ell, batch_size=size, learning_rate=0.1 * size)
        for ell in (1, 2)
        for size in (8, 16)
    ]
    by_ell = SVAGStudy.comparisons(runs)
    assert [c.common["batch_size"] for c in by_ell] == [8, 16]
    by_batch_size = LinearScaling.comparisons(runs)
    assert [c.common["ell"] for c in by_batch_size] == [1, 2]


def test_runs_that_differ_besides_are_not_compared():
    for other, number in (
        ({"lsr.closeness": 2.0}, 0),
        ({"sampling": "shuffle"}, 0),
        ({"model.depth": 8}, 0),
        # What is only measured otherwise does not part them.
        ({"lsr.kappas": (2,)}, 1),
        ({"scale": 1.0, "scale_lr": 1.0}, 1),
    ):
        found = SVAGStudy.comparisons([run(), run(ell=2, **other)])
        assert len(found) == number
    # Another learning rate than in proportion.
    runs = [run(batch_size=8, scale=1.0), run(batch_size=16)]
    assert LinearScaling.comparisons(runs) == []
    assert differing_keys(runs) == ["batch_size"]


def test_ngd_is_compared_with_sgd_and_with_svag_of_ell_1_alone():
    ngd = run(optimizer="ngd", sampling="shuffle")
    sgd, svag = run(optimizer="sgd"), run(ell=1, seed=1)
    amplified, adam = run(ell=2), run(optimizer="adam")
    runs = [ngd, sgd, svag, amplified, adam]
    [comparison] = NGDStudy.comparisons(runs)
    assert comparison.groups == {"NGD": [ngd], "SGD": [sgd, svag]}
    assert comparison.differing == ["optimizer", "sampling", "seed"]


def test_a_repeated_run_is_no_second_sample():
    first, again, other = run("a"), run("b"), run("c", seed=1)
    runs = [first, again, other]
    assert without_repeated(runs) == ([first, other], [again])


def test_a_curve_has_the_epochs_that_all_seeds_have():
    runs = [
        Run("run", {}, pandas.DataFrame({"loss": losses}))
        for losses in ([1.0, 5.0, 3.0], [2.0, math.nan, 7.0, 8.0])
    ]
    epochs, values = seed_curves(runs, "loss")
    np.testing.assert_array_equal(epochs, [1, 3])
    np.testing.assert_array_equal(values, [[1.0, 3.0], [2.0, 7.0]])
