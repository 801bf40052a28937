"""The recipes of configs/paper.py: the numbers, the networks, the names."""

import numpy as np
import pytest

from configs import paper
from experiments.build import compile_model, make_plan
from experiments.config import scaled_down
from experiments.datasets import DATASETS, Dataset
from keras_svag.probe.invariance import is_scale_invariant

# The paper's default recipe.
RECIPE = {
    "batch_size": 128,
    "learning_rate": 0.8,
    "momentum": 0.0,
    "weight_decay": 5e-4,
    "epochs": 160,
    "milestones": (80, 120),
    "decay_factor": 0.1,
    "schedule": "step",
    "optimizer": "svag",
    "pairing": "independent",
    "sampling": "with_replacement",
    "augmentation": True,
    "warmup_epochs": 0.0,
}
LSR = {"epochs": 300, "milestones": (250,), "scale_lr": "linear"}
NGD = {
    "batch_size": 500,
    "learning_rate": 3.2,
    "optimizer": "ngd",
    "augmentation": False,
}

# The table of the paper's experiments: what differs from the recipe.
TABLE = {
    "svag-preresnet32-bn": {},
    "svag-preresnet32-bn-b64": {"batch_size": 64},
    "svag-preresnet32-bn-b1024": {"batch_size": 1024},
    "svag-preresnet32-gn": {},
    "svag-preresnet32-wide": {},
    "svag-vgg16-bn": {},
    "svag-vgg16-gn": {},
    "svag-vgg16-none": {"learning_rate": 0.01},
    "svag-vgg16-none-decay1e-4": {"learning_rate": 0.01, "weight_decay": 1e-4},
    "svag-vgg16-none-warmup": {"learning_rate": 0.01, "warmup_epochs": 1.0},
    "svag-preresnet32-bn-cosine": {"schedule": "cosine"},
    "svag-preresnet32-bn-triangle": {"schedule": "triangle"},
    "lsr-preresnet32-bn": LSR,
    "lsr-preresnet32-gn": {**LSR, "pairing": "halves"},
    "lsr-preresnet32-wide": LSR,
    "lsr-vgg19-gn": {**LSR, "pairing": "halves"},
    "lsr-resnet32-bn": LSR,
    "ngd-preresnet32-gn": NGD,
}


def test_there_is_a_recipe_for_every_row():
    assert set(paper.STUDIES) == set(TABLE)
    assert len(paper.RECIPES) == 3 * len(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_differs_from_the_papers_in_what_it_studies(name):
    config = paper.get_config(name)
    expected = {**RECIPE, **TABLE[name]}
    assert {key: config[key] for key in expected} == expected
    assert config.dataset == "cifar10"


def images():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3))
    pixels = pixels.astype("uint8")
    labels = np.arange(64, dtype="int32") % 10
    moments = (0.5,) * 3
    return Dataset(DATASETS["cifar10"], *(pixels, labels) * 2, moments, moments)


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("svag-preresnet32-bn", True),
        ("svag-preresnet32-gn", True),
        ("svag-preresnet32-wide", True),
        ("svag-vgg16-bn", True),
        ("svag-vgg16-gn", True),
        ("lsr-vgg19-gn", True),
        ("ngd-preresnet32-gn", True),
        ("svag-vgg16-none", False),
        ("lsr-resnet32-bn", False),
    ],
)
def test_networks_are_scale_invariant_as_they_claim(name, claim):
    config = paper.get_config(name)
    config.scale = 0.01
    config.batch_size = 16
    config.measure_noise = False
    config = scaled_down(config)
    dataset = images()
    model = compile_model(
        config, dataset, make_plan(config, len(dataset.train_images))
    )
    batch = dataset.train_images[:8].astype("float32") / 255
    assert is_scale_invariant(getattr(model, "model", model), batch) is claim


def test_batch_normalization_keeps_sgds_window_whatever_ell_is():
    config = scaled_down(paper.get_config("svag-preresnet32-bn"))
    config.update({"batch_size": 16, "ell": 4, "measure_noise": False})
    config.model.depth = 8
    dataset = images()
    plan = make_plan(config, len(dataset.train_images))
    model = compile_model(config, dataset, plan)
    momentum = model.get_layer("final_norm").momentum
    # Two updates a pair, four pairs to a step of SGD.
    assert momentum ** (2 * 4) == pytest.approx(0.9)


@pytest.mark.parametrize("name", ["", "nosuch", "svag-preresnet32-bn-mnist"])
def test_unknown_name_lists_the_known_ones(name):
    with pytest.raises(SystemExit) as exit_:
        paper.get_config(name)
    sentence = exit_.value.code
    assert repr(name) in sentence and "\n" not in sentence
    assert all(study in sentence for study in TABLE)
