import errno
import math
import os
import shutil

import numpy as np
import pytest

from experiments.report.runs import Window, find_runs
from experiments.run_folder import CHECKSUM
from keras_svag.scaling.reasons import Reason
from keras_svag.version import __version__
from tests.helpers.refusals import check_sentence
from tests.helpers.synthetic_runs import (
    edit,
    estimate,
    in_norm_of_adam,
    window,
    write_run,
)


def read(folder):
    [run], unfinished, _ = find_runs(str(folder))
    assert unfinished == []
    return run


NOISE = estimate(0.25, 1.5)


def test_a_run_is_read_as_it_was_written(tmp_path):
    write_run(
        tmp_path / "a" / "run",
        accuracy=0.75,
        noise=NOISE,
        weight_sq_norm=30.0,
        reasons=["not_scale_invariant"],
        losses=[4.0, 3.0, 2.0, 1.0],
    )
    run = read(tmp_path)
    assert run.name == "a/run"
    assert run.accuracy == 0.75 and not run.diverged
    assert run.config["model.hidden_units"] == (64, 64)
    np.testing.assert_array_equal(run.epochs, [1, 2, 3, 4])
    np.testing.assert_array_equal(run.curve("loss"), [4, 3, 2, 1])
    assert np.isnan(run.curve("weight_sq_norm")).all()
    reasons = (Reason("not_scale_invariant"),)
    expected = Window(NOISE, 30.0, 0.2, 3, 4, reasons, 1.0, True)
    assert run.final_window == run.window_before_decay == expected
    assert CHECKSUM not in run.results


def test_without_a_check_the_last_epoch_is_the_window(tmp_path):
    columns = {"weight_sq_norm": [9.0, 8.0]}
    noise = {"gradient_noise": NOISE.to_dict()}
    write_run(tmp_path / "run", epochs=2, columns=columns, results=noise)
    expected = Window(NOISE, 8.0, 0.2, 2, 2, (Reason("equilibrium_unknown"),))
    assert read(tmp_path).final_window == expected


def test_noise_in_the_norm_of_adam_is_none_of_the_equilibrium(tmp_path):
    measured = estimate(900.0, 5000.0)
    results = in_norm_of_adam(measured)
    write_run(tmp_path / "run", noise=NOISE, results=results, optimizer="adam")
    run = read(tmp_path)
    assert run.preconditioned_noise == measured
    for final in (run.final_window, run.window_before_decay):
        assert (final.estimate, final.weight_sq_norm) == (NOISE, 25.0)


def test_the_window_before_the_decay_has_the_configured_learning_rate(
    tmp_path,
):
    # Of two with that rate it is the last one.
    rates = {50.0: 0.02, 60.0: 0.2, 40.0: 0.2}
    earlier = [window(NOISE, norm, rate) for norm, rate in rates.items()]
    final = {"linear_scaling.conditions.learning_rate": 0.02}
    write_run(tmp_path / "run", noise=NOISE, earlier=earlier, results=final)
    run = read(tmp_path)
    assert run.window_before_decay.weight_sq_norm == 40.0
    assert run.final_window.weight_sq_norm == 25.0


def test_an_unfinished_run_is_listed_and_left_out(tmp_path):
    write_run(tmp_path / "done")
    write_run(tmp_path / "begun", finished=False)
    (tmp_path / "waiting").mkdir()
    (tmp_path / "waiting" / "output.log").write_text("")
    runs, unfinished, _ = find_runs(str(tmp_path))
    assert [run.name for run in runs] == ["done"]
    assert unfinished == ["begun", "waiting"]


def test_a_run_that_stopped_at_its_loss_has_diverged(tmp_path):
    write_run(tmp_path / "run", losses=[1.0, math.nan], finished=False)
    run = read(tmp_path)
    assert run.diverged and math.isnan(run.accuracy)


# A key of a file with dots, what it holds instead, and what the reason says.
DAMAGED_JSON = [
    ("config.json", "batch_size", 0, "`batch_size`"),
    ("config.json", "optimizer", "sdg", "`optimizer`"),
    ("config.json", "epochs", None, "`epochs`"),
    ("config.json", "learning_rate", 1e308, "1e+100"),
    ("config.json", "lsr.closeness", "x", "`lsr.closeness`"),
    ("config.json", "lsr", {}, "it lacks `lsr.closeness`"),
    ("results.json", "accuracy", 2.0, "accuracy"),
    ("results.json", "gradient_noise", [1], "saved"),
    ("results.json", "linear_scaling", 3, "cannot be used"),
    ("results.json", "linear_scaling.weight_sq_norm", "x", "`weight_sq_norm`"),
    ("results.json", "linear_scaling.conditions.rest", "x", "`rest`"),
    ("results.json", "gradient_noise.count", "2", "`count`"),
    ("results.json", "gradient_noise.per_layer", {"kernel": 1}, "saved"),
]


@pytest.mark.parametrize("name, key, value, says", DAMAGED_JSON)
def test_a_run_with_a_damaged_file_is_left_out(
    tmp_path, name, key, value, says
):
    for run in ("bad", "good"):
        write_run(tmp_path / run, noise=NOISE)
    file = tmp_path / "bad" / name
    edit(file, {key: value})
    runs, unfinished, unusable = find_runs(str(tmp_path))
    assert ([run.name for run in runs], unfinished) == (["good"], [])
    assert list(unusable) == ["bad"]
    check_sentence(unusable["bad"], str(file), says)


HISTORY = "epoch,loss\n0,1.0\n1,0.5\n2,NA\n"
DAMAGED_HISTORIES = [
    (HISTORY.replace("0.5", "abc"), "'abc'"),
    (HISTORY.replace("0.5", "1e308"), "row 2 cannot be 1e+308"),
    (HISTORY.replace("\n1,", "\nNA,"), "epoch in row 2"),
    (HISTORY + "2,0.1\n", "epoch in row 4 cannot be 2"),
    (
        HISTORY.replace("loss", "val_accuracy").replace("0.5", "1.5"),
        "val_accuracy in row 2 cannot be 1.5",
    ),
    ("", "remove"),
    ("epoch,loss\n", "remove"),
    ("loss\n0.5\n", "remove"),
    (HISTORY[:17], "3 epochs of a finished run, got 1"),
    (HISTORY.replace("1,0.5", "1"), "cells of the header"),
    (HISTORY.replace("NA", "1,2"), "cells of the header"),
]


@pytest.mark.parametrize("history, says", DAMAGED_HISTORIES)
def test_a_damaged_history_is_told(tmp_path, history, says):
    write_run(tmp_path / "run", epochs=3)
    file = tmp_path / "run" / "history.csv"
    file.write_text(history)
    with pytest.raises(ValueError) as refused:
        find_runs(str(tmp_path))
    check_sentence(str(refused.value), str(file), says)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_several_runs_of_a_newer_version_are_one_sentence(tmp_path, place):
    numbers = [*map(int, __version__.split("."))]
    numbers[place] += 10
    version = ".".join(map(str, numbers))
    for name in "abc":
        write_run(tmp_path / name, version=version)
    with pytest.raises(ValueError) as refused:
        find_runs(str(tmp_path))
    made = f"made by keras_svag {version}, newer"
    check_sentence(str(refused.value), "a/config.json", made, "2 more")


def test_results_of_another_configuration_are_named(tmp_path):
    for name, rate in (("a", 0.1), ("b", 0.2), ("c", 0.3)):
        write_run(tmp_path / name, learning_rate=rate)
    shutil.copy(tmp_path / "a/results.json", tmp_path / "b/results.json")
    runs, _, unusable = find_runs(str(tmp_path))
    assert [run.name for run in runs] == ["a", "c"]
    assert [*unusable] == ["b"]
    check_sentence(unusable["b"], "b/results.json holds the results of another")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    for name in ("a", "b/c"):
        write_run(tmp_path / name)
    scandir = os.scandir

    def refused(path):
        if str(path).endswith("b"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    # As another user's; root may list any.
    monkeypatch.setattr(os, "scandir", refused)
    runs, _, unusable = find_runs(str(tmp_path))
    assert [run.name for run in runs] == ["a"]
    assert [*unusable] == ["b"]
    check_sentence(unusable["b"], f"{tmp_path / 'b'} cannot be read (Perm")
