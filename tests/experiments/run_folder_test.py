import csv
import fcntl
import json
import os
import shutil
import time

import numpy as np
import pytest

from experiments.run_folder import (
    FolderCheck,
    HistoryFile,
    WorkDir,
    is_locked,
)

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


def test_a_look_at_the_lock_does_not_stop_who_begins(tmp_path):
    assert not is_locked(str(tmp_path))
    looking = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert not is_locked(str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        # It ends while the other one waits.
        patch.setattr(time, "sleep", lambda _: os.close(looking))
        workdir, _ = begun(tmp_path)
    assert is_locked(str(tmp_path))
    del workdir
    assert not is_locked(str(tmp_path))


def test_another_configuration_is_refused_and_kept(tmp_path):
    WorkDir(str(tmp_path), CONFIG).begin()
    with pytest.raises(ValueError, match=r"\(it differs in ell\)"):
        WorkDir(str(tmp_path), {**CONFIG, "ell": 8})
    assert json.loads((tmp_path / "config.json").read_text())["ell"] == 4


def begun(path, config=CONFIG):
    workdir = WorkDir(str(path), config)
    return workdir, workdir.begin()


def test_a_run_keeps_its_identity_and_another_has_its_own(tmp_path):
    first, found = begun(tmp_path / "a")
    assert found is None
    first.checkpoints.save(3, [], None)
    first_id = first.run_id
    del first
    again, found = begun(tmp_path / "a")
    assert again.run_id == first_id == found.about["run_id"]
    assert found.step == 3
    assert json.loads((tmp_path / "a/config.json").read_text())["run_id"] == (
        first_id
    )
    other, _ = begun(tmp_path / "b")
    assert other.run_id != first_id


def test_a_folder_begun_anew_under_a_running_process_stays_the_new_ones(
    tmp_path,
):
    path = tmp_path / "run"
    old, _ = begun(path)
    shutil.rmtree(path)
    for write in (
        lambda: old.checkpoints.save(5, [], None),
        lambda: FolderCheck(old).on_epoch_end(0, {"loss": 1.0}),
        lambda: setattr(old, "results", {}),
    ):
        with pytest.raises(ValueError, match="no longer this run's"):
            write()
        assert not path.exists()
    new, _ = begun(path, {**CONFIG, "ell": 8})
    new.checkpoints.save(1, [], "new")
    with pytest.raises(ValueError, match="no longer this run's"):
        old.checkpoints.save(5, [], "old")
    del new
    assert begun(path, {**CONFIG, "ell": 8})[1].state == "new"


def test_the_checkpoint_of_another_run_is_left_out_and_then_removed(tmp_path):
    old, _ = begun(tmp_path / "old", {**CONFIG, "ell": 8})
    old.checkpoints.save(500, [], "old")
    new, _ = begun(tmp_path / "new")
    new.checkpoints.save(1, [], "new")
    foreign = tmp_path / "new/checkpoints/step-500.npz"
    shutil.copy(tmp_path / "old/checkpoints/step-500.npz", foreign)
    del new
    with pytest.warns(UserWarning, match="step-500.npz' is of another run"):
        again, found = begun(tmp_path / "new")
    assert found.state == "new"
    again.checkpoints.save(2, [], "new")
    assert not foreign.exists()


def test_without_config_json_the_checkpoints_say_which_run_it_is(tmp_path):
    first, _ = begun(tmp_path)
    first.checkpoints.save(3, [], None)
    first_id = first.run_id
    del first
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"another configuration .* in ell\)"):
        begun(tmp_path, {**CONFIG, "ell": 8})
    assert not (tmp_path / "config.json").exists()
    again, found = begun(tmp_path)
    assert (again.run_id, found.step) == (first_id, 3)


def test_a_configuration_without_an_identity_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ValueError, match="text as run_id, got None; remove"):
        begun(tmp_path)


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


@pytest.mark.parametrize("depth", [1, 100, 500, 900])
def test_an_identity_that_is_nested_is_one_sentence(tmp_path, depth):
    first, _ = begun(tmp_path)
    first.checkpoints.about["run_id"] = "[]"
    first.checkpoints._check = lambda about: None
    first.checkpoints.save(3, [], None)
    del first
    file = tmp_path / "checkpoints" / "step-3.npz"
    arrays = dict(np.load(file))
    about = arrays["about"].tobytes()
    deep = b"[" * depth + b"]" * depth
    arrays["about"] = np.frombuffer(about.replace(b'"[]"', deep), np.uint8)
    np.savez(file, **arrays)
    with pytest.warns(UserWarning, match="is of another run"):
        begun(tmp_path)
    config = tmp_path / "config.json"
    config.unlink()
    with pytest.raises(ValueError, match="no config.json that says of which"):
        begun(tmp_path)
    assert not config.exists()
    config.write_text(json.dumps({**CONFIG, "run_id": nested(depth)}))
    with pytest.raises(ValueError, match="must hold a text as run_id"):
        begun(tmp_path)


def test_what_another_process_writes_at_the_same_time_is_refused(tmp_path):
    # Both have found an empty folder; the other one was done sooner.
    workdir = WorkDir(str(tmp_path), CONFIG)
    begun(tmp_path, {**CONFIG, "ell": 8})
    with pytest.raises(ValueError, match="another configuration"):
        workdir.begin()


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
