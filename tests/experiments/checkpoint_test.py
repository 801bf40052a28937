import os
import resource
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
from tests.helpers.small_problems import dense_network

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    np.asarray(2**40 + 1),
    np.asarray([np.nan, 1 / 3]),
]


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(str(tmp_path / "checkpoints"), keep=2)


def files(folder):
    return sorted(os.listdir(folder.path))


def damage(folder, step, change):
    path = os.path.join(folder.path, f"step-{step}.run.npz")
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(change(content))


def test_what_is_saved_comes_back(folder):
    state = {"rows": [{"loss": 0.1, "name": "π"}], "none": None}
    folder.save(7, ARRAYS, state)
    found = folder.newest()
    assert (found.step, found.state) == (7, state)
    for array, expected in zip(found.arrays, ARRAYS, strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


def test_without_a_checkpoint_there_is_none(folder, tmp_path):
    assert folder.newest() is None
    assert not os.path.exists(folder.path)
    (tmp_path / "file").write_text("")
    assert CheckpointFolder(str(tmp_path / "file")).newest() is None


def test_the_last_ones_are_kept(folder):
    for step in (5, 10, 20, 100):
        folder.save(step, ARRAYS, {})
    assert files(folder) == ["step-100.run.npz", "step-20.run.npz"]
    assert folder.newest().step == 100
    folder.remove()
    assert not os.path.exists(folder.path)


@pytest.mark.parametrize("change", [lambda _: b"", lambda whole: whole[:-1]])
def test_a_damaged_one_is_noticed_and_the_one_before_used(folder, change):
    folder.save(1, ARRAYS, {"is": "first"})
    folder.save(2, ARRAYS, {})
    damage(folder, 2, change)
    with pytest.warns(UserWarning, match="step-2.run.npz' is damaged"):
        assert folder.newest().state == {"is": "first"}
    damage(folder, 1, change)
    with pytest.warns(UserWarning, match="training begins anew"):
        assert folder.newest() is None


def small_archive(path):
    folder = CheckpointFolder(str(path))
    folder.save(1, [np.arange(3, dtype=np.float32)], {"rows": [0.5]})
    with open(os.path.join(folder.path, "step-1.run.npz"), "rb") as file:
        return folder, file.read()


@pytest.mark.filterwarnings("ignore:The checkpoint:UserWarning")
@pytest.mark.filterwarnings("ignore:No checkpoint:UserWarning")
def test_no_bit_of_it_can_be_changed_to_another_training(tmp_path):
    folder, content = small_archive(tmp_path)
    whole = folder.newest()
    refused = 0
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        damage(folder, 1, lambda _, flipped=flipped: bytes(flipped))
        found = folder.newest()
        if found is None:
            refused += 1
            continue
        # Times and attributes of the files, which nothing depends on.
        assert (found.step, found.state) == (1, whole.state)
        assert len(found.arrays) == 1
        assert found.arrays[0].tobytes() == whole.arrays[0].tobytes()
        assert found.arrays[0].dtype == np.float32
    assert refused > len(content) / 2


def test_damaged_ones_do_not_push_out_those_that_are_whole(folder):
    folder.save(10, ARRAYS, {})
    folder.save(20, ARRAYS, {})
    for step in (10, 20):
        damage(folder, step, lambda content: b"")
    with pytest.warns(UserWarning, match="is damaged"):
        assert folder.newest() is None
    folder.save(1, ARRAYS, {})
    assert files(folder) == ["step-1.run.npz"]


def test_what_a_killed_process_left_half_written_is_no_checkpoint(folder):
    folder.save(1, ARRAYS, {})
    with open(
        os.path.join(folder.path, "step-2.run.npz.partial"), "wb"
    ) as file:
        file.write(b"PK")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert folder.newest().step == 1
        folder.save(2, ARRAYS, {})
    assert folder.newest().step == 2


def test_a_pickle_is_not_read(folder):
    os.makedirs(folder.path)
    path = os.path.join(folder.path, "step-3.run.npz")
    objects = np.array([{"an": "object"}], dtype=object)
    state = np.frombuffer(b"null", np.uint8)
    np.savez(path, allow_pickle=True, state=state, **{"0": objects})
    with pytest.warns(UserWarning, match="allow_pickle=False"):
        assert folder.newest() is None


def test_a_full_disk_is_one_sentence_and_leaves_nothing(folder):
    folder.save(1, ARRAYS, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(ValueError, match="cannot be written") as error:
            folder.save(2, [np.zeros(100_000)], {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert files(folder) == ["step-1.run.npz"]
    assert folder.newest().step == 1


def test_a_checkpoint_of_another_model_is_refused():
    model = dense_network()
    model.compile(SVAG(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    before = training_arrays(model)
    other = Checkpoint(7, [np.ones(3)] * len(before), {}, {}, "step-7.npz")
    with pytest.raises(ValueError, match="step-7.npz does not fit the model"):
        restore_training_arrays(model, other)
    for ours, theirs in zip(training_arrays(model), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
