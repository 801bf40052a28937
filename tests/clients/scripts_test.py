"""Whole training scripts run with a check as they do without."""

import csv
import re
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import ScalingRuleCheck
from tests.clients import scripts

pytestmark = pytest.mark.slow

KEYS = {
    "grad_sq_norm",
    "noise_trace",
    "noise_to_signal",
    "noise_scale",
    "weight_sq_norm",
    "noise_to_signal_low",
    "noise_to_signal_high",
    "max_batch_size",
    "max_batch_size_low",
    "max_batch_size_high",
}


def scalars(folder):
    """The values of TensorBoard's scalars, `{tag: [bytes]}`."""
    values = {}
    for file in sorted(folder.rglob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                content = value.tensor.SerializeToString()
                values.setdefault(value.tag, []).append(content)
    return values


def names_of_files(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    # An events file is named after the time and the process.
    return sorted(
        re.sub(r"events\.out\..*", "events", str(path.relative_to(folder)))
        for path in files
    )


def assert_same_arrays(ours, theirs):
    for a, b in zip(
        keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("script", scripts.SCRIPTS, ids=lambda s: s.__name__)
def test_script_gives_the_same_with_the_check(script, tmp_path):
    folders = [tmp_path / "plain", tmp_path / "checked"]
    check = ScalingRuleCheck(every=2, verbose=0)
    plain, checked = (
        (folder.mkdir(), script(callbacks, folder))[1]
        for callbacks, folder in zip(([], [check]), folders, strict=True)
    )
    keys = set(checked.history) - set(plain.history)

    # The model, its logs, and what it computes.
    assert_same_arrays(checked.model.get_weights(), plain.model.get_weights())
    assert_same_arrays(
        [v.numpy() for v in checked.model.optimizer.variables],
        [v.numpy() for v in plain.model.optimizer.variables],
    )
    for key, values in plain.history.items():
        assert checked.history[key] == values, key
    logs, predictions = (
        (
            run.model.evaluate(**run.data, return_dict=True, verbose=0),
            run.model.predict(run.data["x"], verbose=0),
        )
        for run in (checked, plain)
    )
    assert_same_arrays(logs, predictions)

    # What was measured.
    assert check.report.estimate.example_noise > 0
    assert check.report.verdict.noise_to_signal != 0
    if script is not scripts.loop_of_ones_own:
        assert keys - {"preconditioned_noise_to_signal"} == KEYS

    # Its files.
    assert names_of_files(folders[1]) == names_of_files(folders[0])
    for path in folders[0].rglob("*.csv"):
        theirs, ours = (
            list(csv.DictReader((folder / path.name).open()))
            for folder in folders
        )
        assert set(ours[0]) - set(theirs[0]) == keys
        for row, expected in zip(ours, theirs, strict=True):
            assert {key: row[key] for key in expected} == expected
    theirs, ours = map(scalars, folders)
    assert {tag: ours[tag] for tag in theirs} == theirs
    if theirs:
        assert set(ours) - set(theirs) == {f"epoch_{key}" for key in keys}
    for path in folders[1].rglob("*.keras"):
        with zipfile.ZipFile(path) as file:
            assert b"keras_svag" not in file.read("config.json")
