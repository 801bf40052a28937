from experiments.process.logs import HistoryFile


def test_a_row_an_epoch_which_can_be_gone_on_with(tmp_path):
    path = tmp_path / "history.csv"
    history = HistoryFile(str(path))
    history.on_train_begin()
    assert path.read_text() == "epoch\n"
    history.on_epoch_end(0, {"loss": 1 / 3})
    state = {"rows": list(history.state_dict()["rows"])}
    # A column may appear later.
    history.on_epoch_end(1, {"loss": float("nan"), "accuracy": 0.5})
    history.on_epoch_end(2, {"loss": 2.0})
    rows = ["epoch,accuracy,loss", f"0,NA,{1 / 3!r}", "1,0.5,nan", "2,NA,2.0"]
    assert path.read_text().splitlines() == rows
    other = HistoryFile(str(path))
    other.on_train_begin()
    assert path.read_text() == "epoch\n"
    other.load_state_dict(state)
    assert path.read_text() == f"epoch,loss\n0,{1 / 3!r}\n"
    other.on_epoch_end(1, {"loss": 0.2})
    assert path.read_text() == f"epoch,loss\n0,{1 / 3!r}\n1,0.2\n"
