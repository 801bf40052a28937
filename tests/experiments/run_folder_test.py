import json
import os

import pytest

from experiments.run_folder import WorkDir

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
