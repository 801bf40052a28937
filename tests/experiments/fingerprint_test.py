import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf

import keras_svag
import train
from experiments import datasets
from experiments.process import fingerprint
from experiments.run_folder import WorkDir
from tests.helpers.small_problems import dense_network
from tests.train.train_test import small_config


def test_the_number_of_threads_is_that_of_the_environment(monkeypatch):
    for number in ("3", "5"):
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", number)
        monkeypatch.setenv("TF_NUM_INTEROP_THREADS", number + "0")
        found = fingerprint.surroundings(dense_network())
        assert found["intra-op threads"] == int(number)
        assert found["inter-op threads"] == int(number) * 10
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    assert fingerprint.surroundings(dense_network())["intra-op threads"] >= 1


def test_the_surroundings_name_versions_and_replicas():
    model = dense_network()
    model.steps_per_execution = 7
    found = fingerprint.surroundings(model)
    assert found["the version of TensorFlow"] == tf.__version__
    assert found["replicas"] == 1
    assert found["training steps in a call"] == 7
    assert found["--deterministic"] is False
    assert found["devices"]


def test_changes_are_named():
    before = {"replicas": 1, "devices": "CPU"}
    assert fingerprint.changes(before, dict(before)) == ""
    now = {"replicas": 1, "devices": "GPU", "threads": 2}
    assert fingerprint.changes(before, now) == (
        "devices (was CPU, is GPU), threads (was unknown, is 2)"
    )
    assert "not saved" in fingerprint.changes(None, now)


def test_code_that_differs_in_one_line_has_another_checksum(tmp_path):
    package = tmp_path / "keras_svag"
    shutil.copytree(keras_svag.__path__[0], package)
    before = fingerprint.files_in(package)
    assert before.items() <= fingerprint.source_files().items()
    assert "experiments/build.py" in fingerprint.source_files()
    changed = package / "optimizers" / "svag.py"
    changed.write_text(changed.read_text().replace("self.ell", "2", 1))
    after = fingerprint.files_in(package)
    assert [name for name in before if after[name] != before[name]] == [
        "keras_svag/optimizers/svag.py"
    ]


def test_data_with_another_label_have_another_checksum():
    dataset = datasets.load("digits")
    before = fingerprint.data(dataset)
    assert before["the number of training examples"] == 1437
    labels = dataset.train_labels.copy()
    labels[[0, 1]] = labels[[1, 0]]
    assert labels[0] != labels[1]
    after = fingerprint.data(dataclasses.replace(dataset, train_labels=labels))
    assert {name for name in before if before[name] != after[name]} == {
        "the checksum of train_labels"
    }


def test_settings_have_the_names_of_flags():
    found = fingerprint.settings(small_config(learning_rate=0.25))
    assert found["--config.learning_rate"] == "0.25"
    assert found["--config.model.hidden_units"] == "(8,)"


def test_a_run_that_goes_on_otherwise_says_so_in_one_sentence(
    tmp_path, monkeypatch, recwarn
):
    class Ended(Exception):
        pass

    def fit(model, make_batches, evaluation, plan, checkpoints, *_, **options):
        checkpoints.save(44, [np.zeros(1)], {"StreamsVersion": 1})
        raise Ended

    def said_with(threads):
        recwarn.clear()
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", threads)
        config = small_config()
        workdir = WorkDir(str(tmp_path / "run"), config.to_dict())
        with pytest.raises(Ended):
            train.train(config, workdir, None, tf.distribute.get_strategy())
        texts = [str(warning.message) for warning in recwarn]
        return [text for text in texts if "goes on" in text]

    monkeypatch.setattr(train, "resumable_fit", fit)
    assert said_with("1") == []
    assert said_with("1") == []
    assert said_with("2") == [
        "Training goes on, but not to the bit: intra-op threads (was 1, is 2)."
    ]
