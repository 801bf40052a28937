import os
import pathlib
import warnings

import numpy as np
import pytest

from experiments.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    restore_training_arrays,
    training_arrays,
)
from keras_svag import SVAG
from tests.helpers.full_disk import full_disk
from tests.helpers.small_problems import dense_network

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    np.asarray(2**40 + 1),
    np.asarray([np.nan, 1 / 3]),
]


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(str(tmp_path / "checkpoints"))


def file_of(folder, step):
    return pathlib.Path(folder.path, f"step-{step}.run.npz")


def test_what_is_saved_comes_back(folder):
    assert folder.newest() is None
    assert not os.path.exists(folder.path)
    state = {"rows": [{"loss": 0.1, "name": "π"}], "none": None}
    folder.save(7, ARRAYS, state)
    found = folder.newest()
    assert (found.step, found.state) == (7, state)
    for array, expected in zip(found.arrays, ARRAYS, strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


def test_the_last_three_are_kept(folder):
    for step in (5, 10, 20, 100):
        folder.save(step, ARRAYS, {})
    # As a killed process leaves it: no checkpoint.
    pathlib.Path(folder.path, "step-200.run.npz.partial").write_bytes(b"PK")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert folder.newest().step == 100
    assert folder.steps() == [100, 20, 10]
    folder.remove()
    assert os.listdir(folder.path) == ["step-200.run.npz.partial"]


@pytest.mark.parametrize("change", [lambda _: b"", lambda whole: whole[:-1]])
def test_a_damaged_one_is_noticed_and_the_one_before_used(folder, change):
    for step in (10, 20):
        folder.save(step, ARRAYS, {"of": step})
    for step, state in ((20, {"of": 10}), (10, None)):
        path = file_of(folder, step)
        path.write_bytes(change(path.read_bytes()))
        with pytest.warns(UserWarning, match=f"step-{step}.*damaged") as said:
            found = folder.newest()
        assert getattr(found, "state", None) == state
    assert "training begins anew" in str(said[-1].message)
    # They do not push out the whole ones of a training that began anew.
    folder.save(1, ARRAYS, {})
    assert folder.steps() == [1]


@pytest.mark.filterwarnings("ignore:The checkpoint:UserWarning")
@pytest.mark.filterwarnings("ignore:No checkpoint:UserWarning")
def test_no_bit_of_it_can_be_changed_to_another_training(folder):
    folder.save(1, [np.arange(3, dtype=np.float32)], {"rows": [0.5]})
    path, whole = file_of(folder, 1), folder.newest()
    content, refused = path.read_bytes(), 0
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        found = folder.newest()
        if found is None:
            refused += 1
            continue
        # Times and attributes of the files, which nothing depends on.
        assert (found.step, found.state) == (1, whole.state)
        [array] = found.arrays
        assert array.tobytes() == whole.arrays[0].tobytes()
        assert array.dtype == np.float32
    assert refused > len(content) / 2


def test_a_pickle_is_not_read(folder):
    folder.save(3, [], {})
    objects = np.array([{"an": "object"}], dtype=object)
    np.savez(file_of(folder, 3), allow_pickle=True, **{"0": objects})
    with pytest.warns(UserWarning, match="allow_pickle=False"):
        assert folder.newest() is None


def test_a_full_disk_leaves_nothing(folder):
    folder.save(1, ARRAYS, {})
    with full_disk(10_000), pytest.raises(OSError):
        folder.save(2, [np.zeros(100_000)], {})
    assert os.listdir(folder.path) == ["step-1.run.npz"]


def test_what_does_not_fit_is_refused_by_its_name():
    model = dense_network()
    model.compile(SVAG(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    before = training_arrays(model)
    other = Checkpoint(7, [np.ones(3)] * len(before), {}, "step-7.npz")
    with pytest.raises(ValueError, match="step-7.npz does not fit the model"):
        restore_training_arrays(model, other)
    np.testing.assert_equal(training_arrays(model), before)
