import errno
import json
import math
import os
import shutil

import keras
import numpy as np
import pytest

from experiments.report.runs import find_runs
from experiments.run_folder import CHECKSUM
from keras_svag.scaling.conditions import conditions_of
from keras_svag.scaling.reasons import Reason
from keras_svag.version import __version__
from tests.helpers.refusals import check_sentence
from tests.helpers.synthetic_runs import (
    estimate,
    window,
    write_run,
)


def test_a_run_is_read_as_it_was_written(tmp_path):
    noise = estimate(0.25, 1.5)
    write_run(
        tmp_path / "a" / "run",
        accuracy=0.75,
        noise=noise,
        weight_sq_norm=30.0,
        reasons=["not_scale_invariant"],
        losses=[4.0, 3.0, 2.0, 1.0],
    )
    [run], unfinished, _ = find_runs(str(tmp_path))
    assert unfinished == []
    assert run.name == "a/run"
    assert run.accuracy == 0.75 and not run.diverged
    assert run.config["model.hidden_units"] == (64, 64)
    np.testing.assert_array_equal(run.epochs, [1, 2, 3, 4])
    np.testing.assert_array_equal(run.curve("loss"), [4, 3, 2, 1])
    assert np.isnan(run.curve("weight_sq_norm")).all()
    final = run.final_window
    assert final.estimate == noise
    assert final.weight_sq_norm == 30.0
    assert final.reasons == (Reason("not_scale_invariant"),)
    assert (final.learning_rate, final.at_equilibrium) == (0.2, True)


def test_without_a_check_the_last_epoch_is_the_window(tmp_path):
    folder = tmp_path / "run"
    noise = estimate(0.25, 1.5)
    write_run(folder, epochs=2)
    results = json.loads((folder / "results.json").read_text())
    results["gradient_noise"] = noise.to_dict()
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "history.csv").write_text(
        "epoch,loss,weight_sq_norm,learning_rate\n"
        "0,1.0,9.0,0.2\n"
        "1,0.5,8.0,0.1\n"
    )
    [run], *_ = find_runs(str(tmp_path))
    window = run.final_window
    assert window.estimate == noise
    assert (window.weight_sq_norm, window.learning_rate) == (8.0, 0.1)
    assert (window.first_epoch, window.last_epoch) == (2, 2)


def test_noise_in_the_norm_of_adam_is_none_of_the_equilibrium(tmp_path):
    folder = tmp_path / "run"
    plain, preconditioned = estimate(0.25, 1.5), estimate(900.0, 5000.0)
    write_run(folder, noise=plain, weight_sq_norm=7.5, optimizer="adam")
    results = json.loads((folder / "results.json").read_text())
    results["linear_scaling"] |= {
        "gradient_noise": preconditioned.to_dict(),
        "conditions": conditions_of(keras.optimizers.Adam()).to_dict(),
    }
    (folder / "results.json").write_text(json.dumps(results))
    [run], *_ = find_runs(str(tmp_path))
    assert run.preconditioned_noise == preconditioned
    for final in (run.final_window, run.window_before_decay):
        assert final.estimate == plain
        assert final.weight_sq_norm == 7.5


def test_the_window_before_the_decay_has_the_configured_learning_rate(
    tmp_path,
):
    before = window(estimate(0.5, 2.0), 40.0, 0.2)
    warm = window(estimate(0.7, 2.5), 50.0, 0.02)
    write_run(
        tmp_path / "run", noise=estimate(0.1, 1.0), earlier=[warm, before]
    )
    results = tmp_path / "run" / "results.json"
    content = json.loads(results.read_text())
    content["linear_scaling"]["conditions"]["learning_rate"] = 0.02
    results.write_text(json.dumps(content))
    [run], *_ = find_runs(str(tmp_path))
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
    [run], unfinished, _ = find_runs(str(tmp_path))
    assert run.diverged and math.isnan(run.accuracy)
    assert unfinished == []


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
        write_run(tmp_path / run, noise=estimate(0.25, 1.5))
    file = tmp_path / "bad" / name
    content = part = json.loads(file.read_text())
    *sections, last = key.split(".")
    for section in sections:
        part = part[section]
    part[last] = value
    file.write_text(json.dumps(content))
    runs, unfinished, unusable = find_runs(str(tmp_path))
    assert unfinished == []
    assert [run.name for run in runs] == ["good"]
    [sentence] = unusable.values()
    assert list(unusable) == ["bad"]
    check_sentence(sentence, str(file), says)


HISTORY = "epoch,loss\n0,1.0\n1,0.5\n2,NA\n"
DAMAGED_HISTORIES = {
    "a word": (HISTORY.replace("0.5", "abc"), ["'abc'"]),
    "a large number": (HISTORY.replace("0.5", "1e308"), ["row 2", "1e+308"]),
    "no epoch": (HISTORY.replace("\n1,", "\nNA,"), ["epoch in row 2"]),
    "an epoch twice": (HISTORY + "2,0.1\n", ["epoch in row 4 cannot be 2"]),
    "an accuracy above 1": (
        HISTORY.replace("loss", "val_accuracy").replace("0.5", "1.5"),
        ["val_accuracy in row 2 cannot be 1.5"],
    ),
    "nothing": ("", ["remove"]),
    "no row": ("epoch,loss\n", ["remove"]),
    "no epochs": ("loss\n0.5\n", ["remove"]),
    "a third of it": (HISTORY[:17], ["3 epochs of a finished run, got 1"]),
    "a short row": (HISTORY.replace("1,0.5", "1"), ["cells of the header"]),
    "a long row": (HISTORY.replace("NA", "1,2"), ["cells of the header"]),
}


@pytest.mark.parametrize(
    "history, says", DAMAGED_HISTORIES.values(), ids=DAMAGED_HISTORIES.keys()
)
def test_a_damaged_history_is_told(tmp_path, history, says):
    write_run(tmp_path / "run", epochs=3)
    file = tmp_path / "run" / "history.csv"
    file.write_text(history)
    with pytest.raises(ValueError) as refused:
        find_runs(str(tmp_path))
    check_sentence(str(refused.value), str(file), *says)


def test_several_damaged_runs_alone_are_one_sentence(tmp_path):
    for name in "abc":
        write_run(tmp_path / name, batch_size=0)
    with pytest.raises(ValueError) as refused:
        find_runs(str(tmp_path))
    check_sentence(str(refused.value), "a/config.json", "2 more")


def newer_versions():
    major, minor, patch = map(int, __version__.split("."))
    return [
        f"{major}.{minor}.{patch + 1}",
        f"{major}.{minor + 10}.0",
        f"{major + 1}.0",
    ]


@pytest.mark.parametrize("version", newer_versions())
def test_a_run_of_a_newer_version_is_refused(tmp_path, version):
    write_run(tmp_path / "run", version=version)
    with pytest.raises(ValueError, match=f"by keras_svag {version}, newer"):
        find_runs(str(tmp_path))


def test_results_of_another_configuration_are_named(tmp_path):
    for name, rate in (("a", 0.1), ("b", 0.2), ("c", 0.3)):
        write_run(tmp_path / name, learning_rate=rate)
    shutil.copy(tmp_path / "a/results.json", tmp_path / "b/results.json")
    runs, _, unusable = find_runs(str(tmp_path))
    assert [run.name for run in runs] == ["a", "c"]
    assert [*unusable] == ["b"]
    check_sentence(unusable["b"], "b/results.json holds the results of another")
    assert all(CHECKSUM not in run.results for run in runs)


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
