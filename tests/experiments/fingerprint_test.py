import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import train
from experiments import datasets
from experiments.process import fingerprint
from tests.helpers.small_problems import dense_network
from tests.helpers.small_runs import run, small_config


def test_the_surroundings_name_versions_and_replicas():
    model = dense_network()
    model.steps_per_execution = 7
    found = fingerprint.surroundings(model)
    expected = fingerprint.code() | {
        "the version of TensorFlow": tf.__version__,
        "replicas": 1,
        "training steps in a call": 7,
        "--deterministic": False,
    }
    assert found.items() >= expected.items()
    assert found["devices"] and found["cores"] >= 1
    assert "XLA_FLAGS" in found


def test_data_with_another_label_have_another_checksum():
    dataset = datasets.load("digits")
    before = fingerprint.data(dataset)
    labels = dataset.train_labels.copy()
    labels[0] += 1
    after = fingerprint.data(dataclasses.replace(dataset, train_labels=labels))
    changed = {name for name, _ in before.items() - after.items()}
    assert changed == {"the train_labels of the data"}


def test_a_run_that_goes_on_otherwise_says_so_in_one_sentence(
    tmp_path, monkeypatch, recwarn
):
    class Ended(Exception):
        pass

    def fit(*arguments, **options):
        checkpoints = arguments[6]
        checkpoints.save(44, [np.zeros(1)], {})
        raise Ended

    monkeypatch.setattr(train, "resumable_fit", fit)
    for threads in ("1", "2"):
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", threads)
        with pytest.raises(Ended):
            run(tmp_path / "run", small_config())
    texts = [str(warning.message) for warning in recwarn]
    assert [text for text in texts if "goes on" in text] == [
        "Training goes on, but not to the bit: TF_NUM_INTRAOP_THREADS (was 1, "
        "is 2)."
    ]
