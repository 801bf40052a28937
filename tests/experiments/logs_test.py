from experiments.process.logs import HistoryFile


def test_a_row_an_epoch_and_a_column_that_appears_later(tmp_path):
    path = tmp_path / "history.csv"
    history = HistoryFile(str(path))
    history.on_train_begin()
    assert path.read_text() == "epoch\n"
    history.on_epoch_end(0, {"loss": 1 / 3})
    history.on_epoch_end(1, {"loss": float("nan"), "accuracy": 0.5})
    history.on_epoch_end(2, {"loss": 2.0})
    assert path.read_text().splitlines() == [
        "epoch,accuracy,loss",
        f"0,NA,{1 / 3!r}",
        "1,0.5,nan",
        "2,NA,2.0",
    ]


def test_it_is_rewritten_from_its_state(tmp_path):
    path = tmp_path / "history.csv"
    history = HistoryFile(str(path))
    history.on_epoch_end(0, {"loss": 0.1})
    state, expected = history.state_dict(), path.read_text()
    state = {"rows": list(state["rows"])}
    history.on_epoch_end(1, {"loss": 0.2})
    # Killed while it was writing.
    path.write_text(f"{path.read_text()}2,0.0")
    other = HistoryFile(str(path))
    other.on_train_begin()
    assert path.read_text() == "epoch\n"
    other.load_state_dict(state)
    assert path.read_text() == expected
    other.on_epoch_end(1, {"loss": 0.2})
    assert path.read_text() == "epoch,loss\n0,0.1\n1,0.2\n"
