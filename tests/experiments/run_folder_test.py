"""Whose the files of a folder are, and what of them a run may replace."""

import glob
import os
import shutil
import zipfile

import keras
import pytest

from experiments.run_folder import WorkDir, results_table
from keras_svag.noise.estimate import NoiseEstimate
from tests.helpers.contents import contents_of
from tests.helpers.full_disk import full_disk
from tests.helpers.small_problems import dense_network

CONFIG = {"ell": 4, "model": {"hidden_units": (8, 8)}}
OTHER = {**CONFIG, "ell": 8}


def begun(path, config=CONFIG):
    workdir = WorkDir(str(path), config)
    return workdir, workdir.begin()


def test_a_finished_run_is_known_by_its_results(tmp_path):
    # What a killed process left unfinished is removed.
    (tmp_path / "config.0123456789abcdef.partial.json").write_text("{")
    workdir, _ = begun(tmp_path)
    assert os.listdir(tmp_path) == ["config.json"]
    workdir.checkpoints.save(1, [], {})
    assert WorkDir(str(tmp_path), CONFIG).results is None
    for accuracy in (0.4, 0.5):
        # Its own files are replaced.
        workdir.finish(dense_network(), {"accuracy": accuracy})
    assert WorkDir(str(tmp_path), CONFIG).results == {"accuracy": 0.5}
    keras.saving.load_model(tmp_path / "model.keras")
    assert not (tmp_path / "checkpoints").exists()


def put(path, kind):
    hers = path.parents[1] / "hers" if kind == "link" else path
    if kind == "folder":
        hers.mkdir()
        (hers / "step-5.npz").write_text("hers")
    else:
        hers.write_text('{"accuracy": 1.0}')
    if kind == "link":
        path.symlink_to(hers)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
@pytest.mark.parametrize("name", ["config.json", "checkpoints", "x.partial"])
def test_a_folder_with_files_of_somebody_else_is_refused_and_kept(
    tmp_path, name, kind
):
    folder = tmp_path / "run"
    early = WorkDir(str(folder), CONFIG)
    folder.mkdir()
    put(folder / name, kind)
    before = contents_of(tmp_path)
    for refuse in (early.begin, lambda: WorkDir(str(folder), CONFIG)):
        with pytest.raises(ValueError, match=str(folder)):
            refuse()
    assert contents_of(tmp_path) == before


@pytest.mark.parametrize("kind", ["file", "folder", "archive"])
@pytest.mark.parametrize("name", ["results.json", "model.keras"])
def test_a_model_or_results_of_somebody_else_are_refused_and_kept(
    tmp_path, name, kind
):
    workdir, _ = begun(tmp_path)
    if kind == "archive":
        zipfile.ZipFile(tmp_path / name, "w").close()
    else:
        put(tmp_path / name, kind)
    before = contents_of(tmp_path)
    with pytest.raises(ValueError, match=name):
        workdir.finish(dense_network(), {})
    del workdir
    with pytest.raises(ValueError, match=name):
        begun(tmp_path)
    assert contents_of(tmp_path) == before


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
    begun(path, OTHER)
    before = contents_of(path)
    for write in (
        lambda: old.checkpoints.save(5, [], {}),
        lambda: old.check_at_epochs().on_epoch_end(0),
        lambda: old.finish(None, {}),
    ):
        with pytest.raises(ValueError, match="no longer this run's"):
            write()
    assert contents_of(path) == before
    with pytest.raises(ValueError, match="it differs in ell"):
        begun(path)


def test_the_checkpoint_of_another_run_is_left_out_and_left(tmp_path):
    old, _ = begun(tmp_path / "old", OTHER)
    new, _ = begun(tmp_path / "new")
    old.checkpoints.save(500, [], {})
    new.checkpoints.save(1, [], {})
    [others] = glob.glob(f"{old.checkpoints.path}/*")
    shutil.copy(others, new.checkpoints.path)
    del new
    again, found = begun(tmp_path / "new")
    assert found.step == 1
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
    assert begun(tmp_path)[1].step == 3


def test_a_full_disk_leaves_no_partial_file(tmp_path):
    with full_disk(10), pytest.raises(ValueError, match=str(tmp_path)):
        begun(tmp_path)
    assert os.listdir(tmp_path) == []
    workdir, _ = begun(tmp_path)
    with full_disk(20), pytest.raises(OSError, match="File too large"):
        workdir.finish(dense_network(), {})
    assert os.listdir(tmp_path) == ["config.json"]


@pytest.mark.parametrize("content", ["", "[1, 2]"])
def test_torn_json_is_refused_and_kept(tmp_path, content):
    begun(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json.*remove it"):
        WorkDir(str(tmp_path), CONFIG)
    assert (tmp_path / "config.json").read_text() == content


def test_the_table_says_what_was_not_measured():
    one = NoiseEstimate.from_observations([0.1], [24.0], batch_size=8)
    none = NoiseEstimate.from_observations([], [], batch_size=8)
    lines = results_table({"accuracy": 0.5, "gradient_noise": one.to_dict()})
    assert "N = Tr Σ at batch size 8  3\n" in lines and "–" not in lines
    lines = results_table({"accuracy": 0.5, "gradient_noise": none.to_dict()})
    assert lines.count("  –\n") == 3
