"""Runs whose batch grows, as they are and as they go on when killed."""

import shutil

import numpy as np
import pytest

import train
from experiments.checkpoint import CheckpointFolder
from tests.helpers.contents import contents
from tests.helpers.small_runs import numbers, run, small_config

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


def growing(**keys):
    grown = {
        "num_examples": EXAMPLES,
        "batch_size": SIZES[0],
        "epochs": len(SIZES),
        "learning_rate": 0.2,
        "validate_every": 2,
        "growth": "always",
        "growth_epochs": (2, 4),
        "max_batch_size": EXAMPLES,
        "lsr": {"enabled": True},
    }
    return small_config(**grown | keys)


@pytest.fixture(scope="module", params=KINDS)
def killed(request, tmp_path_factory):
    """A run in peace and copies of its folder as kills leave them."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    config = growing(**KINDS[request.param])
    save = CheckpointFolder.save

    def save_and_copy(checkpoints, step, *args):
        save(checkpoints, step, *args)
        if step in KILLED_AFTER:
            shutil.copytree(folder, f"{folder}-{step}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointFolder, "save", save_and_copy)
        results = run(folder, config, "1")
    return folder, config, results


def test_epochs_have_the_steps_and_the_rate_of_their_batch(killed):
    folder, config, results = killed
    assert results["batch_size"] == SIZES[-1]
    assert numbers(folder, "batch_size") == SIZES
    assert numbers(folder, "effective_step") == [*np.cumsum(STEPS)]
    done = np.arange(len(SIZES)) / len(SIZES)
    rates = config.learning_rate * (1 + np.cos(np.pi * done)) / 2
    kappas = np.array(SIZES) / SIZES[0]
    if config.optimizer == "adam":
        rates = config.learning_rate * np.array([1, 0.1, 0.1, 0.01, 0.01])
        kappas **= 0.5
    np.testing.assert_allclose(
        numbers(folder, "learning_rate"), rates * kappas, rtol=1e-5
    )


@pytest.mark.parametrize("step", KILLED_AFTER)
def test_a_killed_run_ends_with_the_bits_of_one_in_peace(killed, step):
    folder, config, results = killed
    left = folder.with_name(f"{folder.name}-{step}")
    assert run(left, config, "1") == results
    assert contents(left) == contents(folder)


def test_the_noise_decides(tmp_path):
    # κ is at most C² + (C² - 1) N / G: 2.25 at least. With momentum the
    # verdict is a heuristic.
    config = growing(growth="measured", optimizer="sgd", momentum=0.5)
    config.lsr.closeness = 1.5
    sizes = {}
    for word in ("grow", "stay"):
        config.on_heuristic = word
        run(tmp_path / word, config)
        sizes[word] = numbers(tmp_path / word, "batch_size")
    assert sizes["grow"] == sorted(sizes["grow"])
    assert sizes["grow"][0] == 8 < sizes["grow"][1]
    assert {*sizes["stay"]} == {8}


def test_seesaw_grows_where_the_schedule_halves(tmp_path):
    config = growing(
        growth="seesaw",
        optimizer="sgd",
        measure_noise=False,
        schedule="step",
        decay_factor=0.5,
        milestones=(1, 3),
    )
    run(tmp_path / "run", config)
    assert numbers(tmp_path / "run", "batch_size") == [8, 16, 16, 32, 32]
    np.testing.assert_allclose(numbers(tmp_path / "run", "learning_rate"), 0.2)


def test_what_growth_does_not_go_with_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`optimizer` must be one that the"):
        run(tmp_path / "rule", growing(optimizer="lion"))
    monkeypatch.setattr(train.strategies, "agree", lambda _, act, __: act())
    monkeypatch.setattr(train.backend, "has_several_workers", lambda _: True)
    with pytest.raises(ValueError, match="`growth` must be 'none' with --str"):
        run(tmp_path / "workers", growing())
