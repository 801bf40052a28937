import math

import numpy as np
import pandas
import pytest
from matplotlib.figure import Figure

from experiments.config import flat
from experiments.report.linear_scaling import LinearScaling
from experiments.report.ngd import NGDStudy
from experiments.report.runs import Run
from experiments.report.study import make_logarithmic
from experiments.report.svag import SVAGStudy
from tests.helpers.synthetic_runs import CONFIG


def run(losses=(1.0,), **config):
    history = pandas.DataFrame({"loss": losses})
    return Run("run", {**flat(CONFIG), **config}, history, 0.5)


def test_runs_of_several_ell_are_grouped_in_the_order_of_ell():
    runs = [run(ell=ell, seed=seed) for ell in (8, 1, 2) for seed in (0, 1)]
    [study] = SVAGStudy.studies(runs)
    assert list(study.groups) == [1, 2, 8]
    assert [r.config["seed"] for r in study.groups[8]] == [0, 1]
    assert (study.num_seeds, study.differing) == (2, ["ell", "seed"])
    assert study.common["batch_size"] == 16
    assert not {"lsr.kappas", "ell", "seed"} & study.common.keys()
    [study] = SVAGStudy.studies([*runs, run(ell=4)])
    assert study.has_one_seed


def test_each_batch_size_is_a_comparison_of_ell():
    runs = [
        run(ell=ell, batch_size=size, learning_rate=0.1 * size)
        for ell in (1, 2)
        for size in (8, 16)
    ]
    by_ell = SVAGStudy.studies(runs)
    assert [study.common["batch_size"] for study in by_ell] == [8, 16]
    by_batch_size = LinearScaling.studies(runs)
    assert [study.common["ell"] for study in by_batch_size] == [1, 2]


@pytest.mark.parametrize(
    ("kind", "other", "number"),
    [
        (SVAGStudy, {"ell": 2}, 1),
        (SVAGStudy, {"ell": 2, "lsr.closeness": 2.0}, 0),
        (SVAGStudy, {"ell": 2, "sampling": "shuffle"}, 0),
        (SVAGStudy, {"ell": 2, "model.depth": 8}, 0),
        # What is only measured otherwise does not part them.
        (SVAGStudy, {"ell": 2, "lsr.kappas": (2,)}, 1),
        (SVAGStudy, {"ell": 2, "scale": 1.0, "scale_lr": 1.0}, 1),
        # A rate in proportion, or another one.
        (LinearScaling, {"batch_size": 8, "learning_rate": 0.1}, 1),
        (LinearScaling, {"batch_size": 8}, 0),
    ],
)
def test_runs_that_differ_besides_are_not_compared(kind, other, number):
    assert len(kind.studies([run(), run(**other)])) == number


def test_ngd_is_compared_with_sgd_and_with_svag_of_ell_1_alone():
    ngd = run(optimizer="ngd", sampling="shuffle")
    sgd, svag = run(optimizer="sgd"), run(ell=1, seed=1)
    amplified, adam = run(ell=2), run(optimizer="adam")
    [study] = NGDStudy.studies([ngd, sgd, svag, amplified, adam])
    assert study.groups == {"NGD": [ngd], "SGD": [sgd, svag]}
    assert study.differing == ["optimizer", "sampling", "seed"]


def test_a_curve_has_the_epochs_that_all_seeds_have():
    losses = [1.0, 5.0, 3.0], [2.0, math.nan, 7.0]
    runs = [run(losses[seed], seed=seed) for seed in (0, 1)]
    [study] = SVAGStudy.studies([*runs, run([1.0] * 3, ell=2)])
    figure = Figure()
    study.draw_curves(figure)
    line, _ = figure.axes[1].get_lines()
    np.testing.assert_array_equal(line.get_xdata(), [1, 3])
    np.testing.assert_array_equal(line.get_ydata(), [1.5, 5.0])


@pytest.mark.parametrize("ends", [(0.07, 0.09), (0.3, 1.7), (1e-5, 2e3)])
def test_every_range_has_labelled_ticks(ends):
    axes = Figure().subplots()
    axes.plot([0, 1], ends)
    make_logarithmic(axes)
    low, high = axes.get_ylim()
    axes.figure.canvas.draw()
    labels = axes.get_yticklabels()
    inside = [t for t in labels if low <= t.get_position()[1] <= high]
    shown = [text for text in (t.get_text() for t in inside) if text]
    assert len(shown) >= 3 and not any("$" in text for text in shown)
