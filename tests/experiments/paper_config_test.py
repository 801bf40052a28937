"""The recipes of configs/paper.py: the numbers, the networks, the names."""

import numpy as np
import pytest

from configs import paper
from experiments.build import compile_model, make_plan
from experiments.config import flat, scaled_down
from experiments.datasets import DATASETS, Dataset
from keras_svag.probe.invariance import is_scale_invariant

# The paper's default recipe, and what the parts of a name say of it.
RECIPE = {
    "dataset": "cifar10",
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
PARTS = {
    "lsr": {"epochs": 300, "milestones": (250,), "scale_lr": "linear"},
    "ngd": {"optimizer": "ngd", "batch_size": 500, "learning_rate": 3.2},
    "preresnet32": {"model.name": "pre_resnet", "model.depth": 32},
    "resnet32": {"model.name": "resnet", "model.depth": 32},
    "vgg16": {"model.name": "vgg", "model.depth": 16},
    "vgg19": {"model.name": "vgg", "model.depth": 19},
    "wide": {"model.normalization": "batch", "model.widen_factor": 4},
    "bn": {"model.normalization": "batch"},
    "gn": {"model.normalization": "group"},
    "none": {"model.normalization": "none", "learning_rate": 0.01},
    "b64": {"batch_size": 64},
    "b1024": {"batch_size": 1024},
    "decay1e": {"weight_decay": 1e-4},
    "warmup": {"warmup_epochs": 1.0},
    "cosine": {"schedule": "cosine"},
    "triangle": {"schedule": "triangle"},
    "cifar100": {"dataset": "cifar100"},
    "svhn": {"dataset": "svhn_cropped"},
}


@pytest.mark.parametrize("name", paper.RECIPES)
def test_a_recipe_differs_from_the_papers_in_what_its_name_says(name):
    expected = dict(RECIPE)
    for part in name.split("-"):
        expected |= PARTS.get(part, {})
    if name.startswith("lsr-") and "-gn" in name:
        expected["pairing"] = "halves"
    if name.startswith("ngd-"):
        expected["augmentation"] = False
    config = flat(paper.get_config(name))
    assert {key: config[key] for key in expected} == expected


def small_model(name, **changes):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3))
    pixels = pixels.astype("uint8")
    labels = np.arange(64, dtype="int32") % 10
    moments = (0.5,) * 3
    kind = DATASETS["cifar10"]
    dataset = Dataset(kind, *(pixels, labels) * 2, moments, moments)
    config = paper.get_config(name)
    config.update({"scale": 0.01, "batch_size": 16, "measure_noise": False})
    config.update(changes)
    model = compile_model(scaled_down(config), dataset, make_plan(config, 64))
    return getattr(model, "model", model), pixels[:8] / np.float32(255)


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("svag-preresnet32-bn", True),
        ("svag-preresnet32-gn", True),
        ("svag-preresnet32-wide", True),
        ("svag-vgg16-bn", True),
        ("lsr-vgg19-gn", True),
        ("ngd-preresnet32-gn", True),
        ("svag-vgg16-none", False),
        ("lsr-resnet32-bn", False),
    ],
)
def test_networks_are_scale_invariant_as_they_claim(name, claim):
    assert is_scale_invariant(*small_model(name)) is claim


def test_batch_normalization_keeps_sgds_window_whatever_ell_is():
    model, _ = small_model("svag-preresnet32-bn", ell=4)
    # Two updates a pair, four pairs to a step of SGD.
    momentum = model.get_layer("final_norm").momentum
    assert momentum ** (2 * 4) == pytest.approx(0.9)


@pytest.mark.parametrize("name", ["", "nosuch", "svag-preresnet32-bn-mnist"])
def test_unknown_name_lists_the_known_ones(name):
    with pytest.raises(SystemExit) as exit_:
        paper.get_config(name)
    sentence = exit_.value.code
    assert repr(name) in sentence and "\n" not in sentence
    assert all(study in sentence for study in paper.STUDIES)
