"""The recipes of configs/paper.py: the numbers, the networks, the names."""

import numpy as np
import pytest

from configs import paper
from experiments.build import compile_model, make_plan
from experiments.config import flat, scaled_down
from experiments.datasets import DATASETS, Dataset
from keras_svag.probe.invariance import is_scale_invariant

# Of the paper's recipe and studies, what names say of them.
RECIPES = {
    "svag-preresnet32-bn": {
        "batch_size": 128,
        "learning_rate": 0.8,
        "weight_decay": 5e-4,
        "epochs": 160,
        "milestones": (80, 120),
        "sampling": "with_replacement",
        "augmentation": True,
        "model.depth": 32,
        "model.normalization": "batch",
    },
    "svag-vgg16-none-warmup": {"learning_rate": 0.01, "warmup_epochs": 1.0},
    "svag-preresnet32-wide-svhn": {
        "model.widen_factor": 4,
        "dataset": "svhn_cropped",
    },
    "lsr-vgg19-gn-cifar100": {
        "epochs": 300,
        "milestones": (250,),
        "scale_lr": "linear",
        "pairing": "halves",
        "model.depth": 19,
        "dataset": "cifar100",
    },
    "ngd-preresnet32-gn": {
        "optimizer": "ngd",
        "batch_size": 500,
        "learning_rate": 3.2,
        "augmentation": False,
        "model.normalization": "group",
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_what_its_name_says(name):
    config = flat(paper.get_config(name))
    assert {key: config[key] for key in RECIPES[name]} == RECIPES[name]
    assert len(paper.RECIPES) == 3 * 18


def small_model(name, **changes):
    config = paper.get_config(name)
    config.update({"scale": 0.01, "batch_size": 16, "measure_noise": False})
    config.update(changes)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3))
    data = [pixels.astype("uint8"), np.zeros(64, "int32")] * 2
    dataset = Dataset(DATASETS["cifar10"], *data, (0.5,) * 3, (0.5,) * 3)
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
