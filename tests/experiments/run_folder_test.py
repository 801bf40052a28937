import csv
import json
import os

import pytest

from experiments.run_folder import HistoryFile, WorkDir

CONFIG = {"ell": 4, "model": {"hidden_units": (8, 8)}}


def test_nothing_is_written_before_the_run_begins(tmp_path):
    path = tmp_path / "run"
    WorkDir(str(path), CONFIG)
    assert not path.exists()


def test_a_finished_run_is_known_by_its_results(tmp_path):
    workdir = WorkDir(str(tmp_path), CONFIG)
    workdir.begin()
    assert WorkDir(str(tmp_path), CONFIG).results is None
    workdir.results = {"accuracy": 0.5}
    assert WorkDir(str(tmp_path), CONFIG).results == {"accuracy": 0.5}


def test_beginning_again_removes_the_events_of_the_unfinished_run(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "events").write_text("")
    (tmp_path / "notes.txt").write_text("mine")
    WorkDir(str(tmp_path), CONFIG).begin()
    assert sorted(os.listdir(tmp_path)) == ["config.json", "notes.txt"]


def test_a_directory_in_use_is_refused_until_it_is_free(tmp_path):
    first = WorkDir(str(tmp_path), CONFIG)
    first.begin()
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="Another process is writing to"):
        WorkDir(str(tmp_path), CONFIG).begin()
    assert (tmp_path / "train").exists()
    del first
    WorkDir(str(tmp_path), CONFIG).begin()


def test_another_configuration_is_refused_and_kept(tmp_path):
    WorkDir(str(tmp_path), CONFIG).begin()
    with pytest.raises(ValueError, match=r"\(it differs in ell\)"):
        WorkDir(str(tmp_path), {**CONFIG, "ell": 8})
    assert json.loads((tmp_path / "config.json").read_text())["ell"] == 4


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "history.csv")


def test_a_row_an_epoch(path):
    history = HistoryFile(path)
    history.on_train_begin()
    for epoch, loss in enumerate((1 / 3, float("nan"))):
        history.on_epoch_end(epoch, {"loss": loss, "accuracy": 0.5})
    assert rows(path) == [
        {"epoch": "0", "accuracy": "0.5", "loss": repr(1 / 3)},
        {"epoch": "1", "accuracy": "0.5", "loss": "nan"},
    ]


def test_a_column_that_appears_later_is_filled(path):
    history = HistoryFile(path)
    history.on_train_begin()
    history.on_epoch_end(0, {"loss": 2.0})
    history.on_epoch_end(1, {"loss": 1.0, "val_loss": 3.0})
    history.on_epoch_end(2, {"loss": 0.5})
    assert [row["val_loss"] for row in rows(path)] == ["NA", "3.0", "NA"]


def test_it_is_rewritten_from_its_state(path):
    history = HistoryFile(path)
    history.on_train_begin()
    history.on_epoch_end(0, {"loss": 0.1})
    state = history.state_dict()
    with open(path) as file:
        expected = file.read()
    state = {"rows": list(state["rows"])}
    history.on_epoch_end(1, {"loss": 0.2})
    with open(path, "a") as file:
        file.write("2,0.0")  # Killed while it was writing.
    other = HistoryFile(path)
    other.on_train_begin()
    assert rows(path) == []
    other.load_state_dict(state)
    with open(path) as file:
        assert file.read() == expected
    other.on_epoch_end(1, {"loss": 0.2})
    assert [row["epoch"] for row in rows(path)] == ["0", "1"]
