import dataclasses
import warnings

import pytest
import tensorflow as tf

from experiments import datasets
from experiments.process import fingerprint
from tests.helpers.small_problems import dense_network


def test_what_the_last_bits_depend_on_is_said_if_it_changes(monkeypatch):
    surroundings = fingerprint.Surroundings()
    model = dense_network()
    model.steps_per_execution = 7
    surroundings.set_model(model)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    before = surroundings.state_dict()
    expected = fingerprint.code() | {
        "the version of TensorFlow": tf.__version__,
        "replicas": 1,
        "training steps in a call": 7,
        "--deterministic": False,
        "TF_NUM_INTRAOP_THREADS": "1",
    }
    assert before.items() >= expected.items()
    assert before["devices"] and before["cores"] >= 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surroundings.load_state_dict(before)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "2")
    with pytest.warns(UserWarning) as said:
        surroundings.load_state_dict(before)
    assert [str(warning.message) for warning in said] == [
        "Training goes on, but not to the bit: TF_NUM_INTRAOP_THREADS (was 1, "
        "is 2)."
    ]


def test_data_with_another_label_have_another_checksum():
    dataset = datasets.load("digits")
    labels = dataset.train_labels.copy()
    labels[0] += 1
    other = dataclasses.replace(dataset, train_labels=labels)
    assert fingerprint.data(dataset) != fingerprint.data(other)
