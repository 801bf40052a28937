import math

import numpy as np
import pytest

from experiments.report import writing
from experiments.report.runs import find_runs
from experiments.report.writing import write_report
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
    write_scaled_runs,
)

NOISE = estimate(0.25, 1.5)


def read(folder):
    [run], unfinished, _ = find_runs(str(folder))
    assert unfinished == []
    return run


def test_a_run_is_read_as_it_was_written(tmp_path):
    write_run(
        tmp_path / "a" / "run",
        accuracy=0.75,
        noise=NOISE,
        weight_sq_norm=30.0,
        reasons=["clipped"],
        losses=[4.0, 3.0, 2.0, 1.0],
        accuracies=[0.5, None, None, 1 / 3],
    )
    run = read(tmp_path)
    assert run.name == "a/run"
    assert run.accuracy == 0.75 and not run.diverged
    assert run.config["model.hidden_units"] == (64, 64)
    np.testing.assert_array_equal(run.curve("loss"), [4, 3, 2, 1])
    expected = [0.5, math.nan, math.nan, 1 / 3]
    np.testing.assert_allclose(run.curve("val_accuracy"), expected)
    assert np.isnan(run.curve("weight_sq_norm")).all()
    final = run.final_window
    assert final == run.window_before_decay
    assert final == window(NOISE, 30.0, 0.2, ["clipped"])
    assert final.verdict.reasons == (Reason("clipped"),)


def test_without_a_check_the_last_epoch_is_the_window(tmp_path):
    columns = {"weight_sq_norm": [9.0, 8.0]}
    noise = {"gradient_noise": NOISE.to_dict()}
    write_run(tmp_path / "run", epochs=2, columns=columns, results=noise)
    final = read(tmp_path).final_window
    assert (final.estimate, final.weight_sq_norm) == (NOISE, 8.0)
    assert (final.window, final.verdict.learning_rate) == ("2 to 2", 0.2)
    assert final.verdict.reasons == (Reason("equilibrium_unknown"),)


def test_noise_in_the_norm_of_adam_is_none_of_the_equilibrium(tmp_path):
    measured = estimate(900.0, 5000.0)
    results = in_norm_of_adam(measured)
    write_run(tmp_path / "run", noise=NOISE, results=results, optimizer="adam")
    run = read(tmp_path)
    assert run.preconditioned_noise == measured
    for final in (run.final_window, run.window_before_decay):
        assert (final.estimate, final.weight_sq_norm) == (NOISE, 25.0)


def test_the_window_before_the_decay_has_the_configured_rate(tmp_path):
    # Of two with that rate it is the last one.
    rates = {50.0: 0.02, 60.0: 0.2, 40.0: 0.2}
    earlier = [window(NOISE, norm, rate) for norm, rate in rates.items()]
    final = {"linear_scaling.conditions.learning_rate": 0.02}
    write_run(tmp_path / "run", noise=NOISE, earlier=earlier, results=final)
    run = read(tmp_path)
    assert run.window_before_decay.weight_sq_norm == 40.0
    assert run.final_window.weight_sq_norm == 25.0


def test_what_is_not_finished_is_listed_unless_it_diverged(tmp_path):
    write_run(tmp_path / "done")
    write_run(tmp_path / "begun", finished=False)
    write_run(tmp_path / "nan", losses=[1.0, math.nan], finished=False)
    (tmp_path / "waiting").mkdir()
    (tmp_path / "waiting" / "output.log").write_text("")
    runs, unfinished, unusable = find_runs(str(tmp_path))
    found = {run.name: run.diverged for run in runs}
    assert found == {"done": False, "nan": True}
    assert (unfinished, unusable) == (["begun", "waiting"], {})


VERSION = [int(number) for number in __version__.split(".")]
NEWER = [
    ".".join(str(n + 10 * (i == place)) for i, n in enumerate(VERSION))
    for place in range(3)
]
HISTORY = "epoch,loss\n0,1.0\n1,0.5\n2,2.0\n3,NA\n"

# A file, what it holds instead, all or by keys, and what the reason says.
DAMAGED = [
    ("config.json", {"batch_size": 0}, "`batch_size`"),
    ("config.json", {"optimizer": "sdg"}, "`optimizer`"),
    ("config.json", {"epochs": None}, "`epochs`"),
    ("config.json", {"lsr.closeness": "x"}, "`lsr.closeness`"),
    ("config.json", {"lsr": {}}, "lacks `lsr.closeness`"),
    *(
        ("config.json", {"version": v}, f"made by keras_svag {v}, newer")
        for v in NEWER
    ),
    ("results.json", {CHECKSUM: "x"}, "holds the results of another conf"),
    ("results.json", {"accuracy": "x"}, "'x'"),
    ("results.json", {"gradient_noise": [1]}, "saved"),
    ("results.json", {"linear_scaling": 3}, "cannot be used"),
    ("results.json", {"gradient_noise.count": "2"}, "`count`"),
    ("history.csv", HISTORY.replace("0.5", "abc"), "'abc'"),
    ("history.csv", HISTORY.replace("\n1,", "\nNA,"), "the 4 epochs"),
    ("history.csv", HISTORY + "3,0.1\n", "the 4 epochs"),
    ("history.csv", HISTORY[:17], "the 4 epochs"),
    ("history.csv", "loss\n0.5\n", "the 4 epochs"),
    ("history.csv", "", "remove"),
    ("history.csv", HISTORY.replace("1,0.5", "1"), "cells of the header"),
    ("history.csv", HISTORY.replace("NA", "1,2"), "cells of the header"),
]


@pytest.mark.parametrize("name, content, says", DAMAGED)
def test_a_run_with_a_damaged_file_is_left_out(tmp_path, name, content, says):
    for run in ("bad", "good"):
        write_run(tmp_path / run, noise=NOISE)
    file = tmp_path / "bad" / name
    edit(file, content) if name[-4:] == "json" else file.write_text(content)
    runs, unfinished, unusable = find_runs(str(tmp_path))
    assert ([run.name for run in runs], unfinished) == (["good"], [])
    assert list(unusable) == ["bad"]
    check_sentence(unusable["bad"], str(file), says)


def test_several_runs_that_cannot_be_used_are_one_sentence(tmp_path):
    for name in "abc":
        write_run(tmp_path / name, version=NEWER[0])
    with pytest.raises(ValueError) as refused:
        find_runs(str(tmp_path))
    check_sentence(str(refused.value), "a/config.json", "newer", "2 more")


@pytest.mark.parametrize("name", ["config.json", "results.json", "history.csv"])
def test_a_file_that_is_cut_off_costs_no_other_run(tmp_path, name, monkeypatch):
    monkeypatch.setattr(writing, "events_file", lambda *_: ("events", b""))
    runs = tmp_path / "runs"
    write_scaled_runs(runs, {1: [1.0, 1.1], 2: [1.2, 1.3]})
    write_run(runs / "bad", noise=NOISE, ell=4)
    file = runs / "bad" / name
    content, output = file.read_bytes(), str(tmp_path / "report")
    for end in np.linspace(0, len(content) - 8, 12, dtype=int):
        file.write_bytes(content[:end])
        found, _, unusable = find_runs(str(runs))
        assert [run.name for run in found] == ["1-0", "1-1", "2-0", "2-1"]
        check_sentence(unusable["bad"], str(file))
    with open(write_report(str(runs), output, 0)) as report:
        assert "C-close to SVAG with ell 2" in report.read()


@pytest.mark.parametrize(
    "name, key, value",
    [
        ("results.json", "accuracy", 1e99),
        ("results.json", "linear_scaling.weight_sq_norm", "x"),
        ("results.json", "linear_scaling.conditions.balance", "x"),
        ("results.json", "linear_scaling.conditions.learning_rate", "x"),
        ("config.json", "model", {"name": "scale_invariant_mlp", "x": [[1]]}),
    ],
)
def test_nonsense_in_one_run_is_no_end_of_the_report(
    tmp_path, name, key, value
):
    runs = tmp_path / "runs"
    for dataset in ("digits", "mnist"):
        of_ell = {1: [1.0, 1.1], 2: [1.2, 1.3]}
        write_scaled_runs(runs / dataset, of_ell, dataset=dataset)
    edit(runs / "digits" / "1-0" / name, {key: value})
    with open(write_report(str(runs), str(tmp_path / "report"))) as report:
        text = report.read()
    assert "## SVAG and SGD: dataset = mnist" in text
    assert "digits/1-0" in text
