"""Runs whose batch grows, as they are and as they go on when killed."""

import csv
import shutil
import zipfile

import keras
import numpy as np
import pytest

import train
from configs import digits
from experiments.checkpoint import CheckpointFolder
from experiments.run_folder import WorkDir
from experiments.strategies import make_strategy

pytestmark = pytest.mark.slow

EXAMPLES, SIZES = 64, [8, 8, 16, 16, 32]
STEPS = [EXAMPLES // size for size in SIZES]
# The ends of the epochs before a growth, and a step in the epoch after.
KILLED_AFTER = (16, 18, 24, 25)
KINDS = {
    "pairs": {"schedule": "cosine"},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "schedule": "cosine"},
    "adam": {
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "schedule": "step",
        "milestones": (1, 3),
        "sampling": "shuffle",
    },
}


def configuration(**keys):
    config = digits.get_config()
    config.num_examples = EXAMPLES
    config.batch_size, config.epochs = SIZES[0], len(SIZES)
    config.model.hidden_units = (4,)
    config.validate_every = 2
    config.growth, config.growth_epochs = "always", (2, 4)
    config.max_batch_size = EXAMPLES
    config.update(keys)
    return config


def trained(folder, config):
    # Weights are saved by the names of their layers.
    keras.utils.clear_session()
    workdir = WorkDir(str(folder), config.to_dict())
    strategy = make_strategy("none", None)
    return train.train(config, workdir, None, strategy, "1")


def contents(folder):
    with zipfile.ZipFile(folder / "model.keras") as archive:
        weights = archive.read("model.weights.h5")
    names = ("history.csv", "results.json")
    return weights, *((folder / name).read_bytes() for name in names)


def history(folder, name):
    with open(folder / "history.csv", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module", params=KINDS)
def killed(request, tmp_path_factory):
    """A run in peace and copies of its folder as kills leave them."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    config = configuration(**KINDS[request.param])
    save = CheckpointFolder.save

    def save_and_copy(checkpoints, step, *args):
        save(checkpoints, step, *args)
        if step in KILLED_AFTER:
            shutil.copytree(folder, f"{folder}-{step}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointFolder, "save", save_and_copy)
        results = trained(folder, config)
    return folder, config, results


def test_epochs_have_the_steps_and_the_rate_of_their_batch(killed):
    folder, config, results = killed
    assert results["batch_size"] == SIZES[-1]
    assert history(folder, "batch_size") == SIZES
    assert history(folder, "effective_step") == [*np.cumsum(STEPS)]
    done = np.arange(len(SIZES)) / len(SIZES)
    rates = config.learning_rate * (1 + np.cos(np.pi * done)) / 2
    kappas = np.array(SIZES) / SIZES[0]
    if config.optimizer == "adam":
        rates = config.learning_rate * np.array([1, 0.1, 0.1, 0.01, 0.01])
        kappas **= 0.5
    np.testing.assert_allclose(
        history(folder, "learning_rate"), rates * kappas, rtol=1e-5
    )


@pytest.mark.parametrize("step", KILLED_AFTER)
def test_a_killed_run_ends_with_the_bits_of_one_in_peace(killed, step):
    folder, config, results = killed
    left = folder.with_name(f"{folder.name}-{step}")
    assert trained(left, config) == results
    assert contents(left) == contents(folder)


def test_the_noise_decides(tmp_path):
    # κ is at most C² + (C² - 1) N / G: 2.25 at least. With momentum the
    # verdict is a heuristic.
    config = configuration(
        growth="measured", on_heuristic="grow", optimizer="sgd", momentum=0.5
    )
    config.lsr.closeness = 1.5
    trained(tmp_path / "grown", config)
    sizes = history(tmp_path / "grown", "batch_size")
    assert sizes == sorted(sizes) and sizes[0] == 8 < sizes[1]
    config.on_heuristic = "stay"
    trained(tmp_path / "stays", config)
    assert {*history(tmp_path / "stays", "batch_size")} == {8}


def test_seesaw_grows_where_the_schedule_halves(tmp_path):
    config = configuration(
        growth="seesaw",
        optimizer="sgd",
        measure_noise=False,
        schedule="step",
        decay_factor=0.5,
        milestones=(1, 3),
    )
    trained(tmp_path / "run", config)
    assert history(tmp_path / "run", "batch_size") == [8, 16, 16, 32, 32]
    np.testing.assert_allclose(history(tmp_path / "run", "learning_rate"), 0.2)


def test_what_growth_does_not_go_with_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`optimizer` must be one that the"):
        trained(tmp_path / "rule", configuration(optimizer="lion"))
    monkeypatch.setattr(train, "agree", lambda _, action, facts: action())
    monkeypatch.setattr(train.backend, "has_several_workers", lambda _: True)
    with pytest.raises(ValueError, match="`growth` must be 'none' with --str"):
        trained(tmp_path / "workers", configuration())
