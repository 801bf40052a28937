import glob
import os
import shutil

import pytest

from experiments.run_folder import FolderCheck, WorkDir, results_table
from keras_svag.noise.estimate import NoiseEstimate
from tests.helpers.contents import contents_of
from tests.helpers.full_disk import full_disk

CONFIG = {"ell": 4, "model": {"hidden_units": (8, 8)}}
OTHER = {**CONFIG, "ell": 8}


def begun(path, config=CONFIG):
    workdir = WorkDir(str(path), config)
    return workdir, workdir.begin()


def test_a_finished_run_is_known_by_its_results(tmp_path):
    workdir, _ = begun(tmp_path)
    assert WorkDir(str(tmp_path), CONFIG).results is None
    workdir.results = {"accuracy": 0.5}
    assert WorkDir(str(tmp_path), CONFIG).results == {"accuracy": 0.5}


FILES = ["config.json", "history.csv", "results.json", "model.keras"]
FOLDERS = ["train", "validation", "gradient_noise", "checkpoints"]
KINDS = ["file", "folder", "link"]


def put(path, kind):
    if kind == "folder":
        path.mkdir(parents=True)
        (path / "step-5.npz").write_text("hers")
    elif kind == "link":
        hers = path.parents[1] / "hers"
        put(hers, "folder" if path.name in FOLDERS else "file")
        path.symlink_to(hers)
    else:
        path.write_text('{"accuracy": 1.0}')


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*FILES, *FOLDERS, "notes.txt", "x.partial"])
def test_a_folder_of_somebody_elses_is_refused_and_kept(tmp_path, name, kind):
    folder = tmp_path / "run"
    workdir = WorkDir(str(folder), CONFIG)
    folder.mkdir()
    put(folder / name, kind)
    before = contents_of(tmp_path)
    for refuse in (workdir.begin, lambda: WorkDir(str(folder), CONFIG)):
        with pytest.raises(ValueError, match=str(folder)):
            refuse()
    assert contents_of(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES + FOLDERS)
def test_what_is_put_in_a_runs_place_is_refused_or_left(tmp_path, name, kind):
    folder = tmp_path / "run"
    begun(folder)
    (folder / name).unlink(missing_ok=True)
    put(folder / name, kind)
    before = contents_of(tmp_path)
    is_its_own = name in FOLDERS and kind == "folder"
    if is_its_own or (name == "history.csv" and kind == "file"):
        begun(folder)
    else:
        with pytest.raises(ValueError, match=str(folder)):
            begun(folder)
    after = contents_of(tmp_path)
    # It may have been written again.
    config = str(folder / "config.json")
    assert {**after, config: before[config]} == before


@pytest.mark.parametrize("name", ["model.keras", "results.json"])
def test_what_is_put_there_while_it_runs_is_refused(tmp_path, name):
    workdir, _ = begun(tmp_path)
    put(tmp_path / name, "file")
    with pytest.raises(ValueError, match=f"{name} is not what this run"):
        if name == "model.keras":
            workdir.save_model(None)
        else:
            workdir.results = {}


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path):
    name = "config.0123456789abcdef.partial.json"
    (tmp_path / name).write_text("{")
    begun(tmp_path)
    assert os.listdir(tmp_path) == ["config.json"]


def test_a_directory_in_use_is_refused_until_it_is_free(tmp_path):
    first, _ = begun(tmp_path)
    with pytest.raises(ValueError, match="Another process is writing to"):
        begun(tmp_path)
    del first
    begun(tmp_path)


def test_a_folder_begun_anew_under_a_running_process_stays_the_new_ones(
    tmp_path,
):
    path = tmp_path / "run"
    old, _ = begun(path)
    shutil.rmtree(path)
    for write in (
        lambda: old.checkpoints.save(5, [], {}),
        lambda: FolderCheck(old).on_epoch_end(0, {"loss": 1.0}),
        lambda: setattr(old, "results", {}),
    ):
        with pytest.raises(ValueError, match="no longer this run's"):
            write()
        assert not path.exists()
    begun(path, OTHER)
    before = contents_of(path)
    with pytest.raises(ValueError, match="no longer this run's"):
        old.checkpoints.save(5, [], {})
    assert contents_of(path) == before


def checkpoint(workdir, step):
    [path] = glob.glob(f"{workdir.checkpoints.path}/step-{step}.*.npz")
    return path


def test_the_checkpoint_of_another_run_is_left_out_and_left(tmp_path):
    old, _ = begun(tmp_path / "old", OTHER)
    new, _ = begun(tmp_path / "new")
    old.checkpoints.save(500, [], {})
    new.checkpoints.save(1, [], {})
    its_own = checkpoint(new, 1)
    others = shutil.copy(checkpoint(old, 500), new.checkpoints.path)
    # One that was given this run's name is noticed.
    shutil.copy(others, its_own.replace("step-1.", "step-600."))
    del new
    with pytest.warns(UserWarning, match="step-600.*it is of another run"):
        again, found = begun(tmp_path / "new")
    assert found.step == 1
    again.checkpoints.save(2, [], {})
    again.checkpoints.remove()
    assert os.listdir(again.checkpoints.path) == [os.path.basename(others)]


def test_without_config_json_the_checkpoints_say_which_run_it_is(tmp_path):
    first, found = begun(tmp_path)
    assert found is None
    first.checkpoints.save(3, [], {})
    del first
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="it holds 'checkpoints'; give anoth"):
        begun(tmp_path, OTHER)
    assert not (tmp_path / "config.json").exists()
    assert begun(tmp_path)[1].step == 3


@pytest.mark.parametrize("size", [0, 10])
def test_a_run_that_cannot_begin_leaves_no_partial_file(tmp_path, size):
    with full_disk(size), pytest.raises(ValueError, match=str(tmp_path)):
        begun(tmp_path)
    assert os.listdir(tmp_path) == []


def test_results_that_cannot_be_written_leave_no_partial_file(tmp_path):
    workdir, _ = begun(tmp_path)
    with full_disk(20), pytest.raises(ValueError, match="File too large"):
        workdir.results = {"text": "x" * 100}
    assert os.listdir(tmp_path) == ["config.json"]


@pytest.mark.parametrize("content", ["", "[1, 2]", "[" * 10**5])
@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_damaged_json_is_refused_and_kept(tmp_path, name, content):
    begun(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name}.*remove it"):
        _ = WorkDir(str(tmp_path), CONFIG).results
    assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize(
    "results", [{}, {"accuracy": "x"}, {"accuracy": 0.9, "gradient_noise": 3}]
)
def test_damaged_results_are_not_printed(results):
    with pytest.raises(ValueError, match="results.json"):
        results_table(results)


def test_the_table_says_what_was_not_measured():
    one = NoiseEstimate.from_observations([0.1], [24.0], batch_size=8)
    none = NoiseEstimate.from_observations([], [], batch_size=8)
    lines = results_table({"accuracy": 0.5, "gradient_noise": one.to_dict()})
    assert "N = Tr Σ at batch size 8  3\n" in lines and "–" not in lines
    lines = results_table({"accuracy": 0.5, "gradient_noise": none.to_dict()})
    assert lines.count("  –\n") == 3
