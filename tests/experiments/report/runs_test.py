import json
import math

import numpy as np
import pytest

from experiments.report.runs import find_runs, flat
from keras_svag.version import __version__
from tests.helpers.synthetic_runs import estimate, window, write_run


def test_a_run_is_read_as_it_was_written(tmp_path):
    noise = estimate(0.25, 1.5)
    write_run(
        tmp_path / "a" / "run",
        accuracy=0.75,
        noise=noise,
        weight_sq_norm=30.0,
        reasons=["the loss is not scale-invariant"],
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
    assert final.heuristic_reasons == ("the loss is not scale-invariant",)


def test_what_was_not_measured_is_nan(tmp_path):
    write_run(tmp_path / "run", accuracies=[None, 0.5, None, 0.7])
    [run], *_ = find_runs(str(tmp_path))
    np.testing.assert_array_equal(
        run.curve("val_accuracy"), [math.nan, 0.5, math.nan, 0.7]
    )
    assert run.final_window is None


def test_without_a_check_the_last_epoch_is_the_window(tmp_path):
    folder = tmp_path / "run"
    noise = estimate(0.25, 1.5)
    write_run(folder)
    results = {"accuracy": 0.5, "gradient_noise": noise.to_dict()}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "history.csv").write_text(
        "epoch,loss,weight_sq_norm,learning_rate\n0,1.0,9.0,0.2\n1,0.5,8.0,0.1"
    )
    [run], *_ = find_runs(str(tmp_path))
    window = run.final_window
    assert window.estimate == noise
    assert (window.weight_sq_norm, window.learning_rate) == (8.0, 0.1)
    assert (window.first_epoch, window.last_epoch) == (2, 2)


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
    content["linear_scaling"]["learning_rate"] = 0.02
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


@pytest.mark.parametrize("version", [__version__, "0.0.9", "0.0"])
def test_a_run_of_this_or_an_older_version_is_read(tmp_path, version):
    write_run(tmp_path / "run", version=version)
    runs, *_ = find_runs(str(tmp_path))
    assert len(runs) == 1


def test_results_without_an_accuracy_are_one_sentence(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text('{"loss": 1.0}')
    with pytest.raises(ValueError, match="has no accuracy"):
        find_runs(str(tmp_path))


def test_nested_keys_get_dots_and_lists_can_be_compared():
    assert flat({"a": {"b": {"c": [1, [2]]}}, "d": None}) == {
        "a.b.c": (1, (2,)),
        "d": None,
    }


def test_versions_are_compared_as_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.report.runs.__version__", "0.9.0")
    write_run(tmp_path / "run", version="0.10.0")
    with pytest.raises(ValueError, match=r"0\.10\.0, newer"):
        find_runs(str(tmp_path))
