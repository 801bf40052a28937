import csv

import pytest

from experiments.process.logs import HistoryFile


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
