"""Bad values of the keys of a configuration."""

import math
import re

import ml_collections
import numpy as np
import pytest

from configs import digits
from experiments import datasets
from experiments.build import (
    compile_model,
    load_data,
    make_plan,
    training_data,
)
from experiments.config import REQUIRED, scaled_down
from tests.helpers.refusals import check_sentence

SMALL = datasets.Dataset(
    datasets.DATASETS["digits"],
    train_images=np.zeros((8, 4, 4, 1), np.uint8),
    train_labels=np.zeros(8, np.int32),
    test_images=np.zeros((2, 4, 4, 1), np.uint8),
    test_labels=np.zeros(2, np.int32),
    mean=(0.5,),
    std=(0.5,),
)


@pytest.fixture(autouse=True)
def small_digits(monkeypatch):
    load = datasets.load

    def small(name, data_dir=None):
        return SMALL if name == "digits" else load(name, data_dir)

    monkeypatch.setattr(datasets, "load", small)


def configuration():
    config = digits.get_config()
    config.batch_size = 4
    config.model.hidden_units = (4,)
    return config.to_dict()


def prepared(**keys):
    """All that is made of a configuration before anything is written."""
    config = configuration()
    for key, value in keys.items():
        *sections, last = key.split(".")
        section = config
        for name in sections:
            section = section[name]
        section[last] = value
    # One that knows no types, as a file of the user's may make it.
    config = ml_collections.ConfigDict(config, type_safe=False)
    config = scaled_down(config)
    dataset = load_data(config, None)
    plan = make_plan(config, len(dataset.train_images))
    model = compile_model(config, dataset, plan)
    training_data(config, dataset, plan)
    return model.optimizer


SGD, ADAM = {"optimizer": "sgd"}, {"optimizer": "adam", "ell": 1}
RMSPROP = {"optimizer": "rmsprop", "ell": 1}
NGD = {"optimizer": "ngd", "measure_noise": False, "ell": 1}
# A key, a bad value of it, and what else the configuration has.
BAD = [
    ("dataset", "imagenet", {}),
    ("num_examples", 9, {}),
    ("sampling", None, {}),
    ("batch_size", 9, {}),
    ("epochs", 0, {}),
    ("growth", "fast", {}),
    ("growth", "measured", {"max_batch_size": 8, "measure_noise": False}),
    ("growth", "seesaw", {"max_batch_size": 8, "ell": 2}),
    ("growth", "seesaw", {"max_batch_size": 8, **NGD}),
    ("growth_epochs", (), {"max_batch_size": 8, "growth": "always"}),
    ("growth_epochs", (0,), {}),
    ("max_batch_size", None, {"growth": "measured"}),
    ("max_batch_size", 2, {"growth": "measured"}),
    ("max_batch_size", 9, {}),
    ("on_heuristic", "go", {}),
    ("seed", 2**64, {}),
    ("scale", 1.5, {}),
    ("validate_every", 2.5, {}),
    ("optimizer", "sgdm", {}),
    ("ell", 2, SGD),
    ("pairing", "both", {}),
    ("learning_rate", math.nan, {}),
    ("momentum", 0.9, {}),
    ("weight_decay", -1, {}),
    ("beta_1", 1, ADAM),
    ("beta_2", "1", ADAM),
    ("rho", 1, RMSPROP),
    ("epsilon", -1, RMSPROP),
    ("schedule", "zigzag", {}),
    ("milestones", (2, 1), {}),
    ("decay_factor", 0, {}),
    ("warmup_epochs", 81, {}),
    ("warmup_factor", 0, {}),
    ("micro_batch_size", 0, NGD),
    ("augmentation", True, NGD),
    ("measure_noise", None, {}),
    ("lsr.enabled", 0, {}),
    ("lsr.per_layer", 1.0, {}),
    ("lsr.closeness", 1, {}),
    ("lsr.window", 0, {}),
    ("model.name", "lenet", {}),
    ("model.hidden_units", (0,), {}),
    ("model.depth", 20, {}),
    ("model.normalization", "none", {}),
]


@pytest.mark.parametrize("key, value, others", BAD)
def test_bad_value_is_one_sentence(key, value, others):
    with pytest.raises((TypeError, ValueError)) as refused:
        prepared(**others, **{key: value})
    # What the network refuses it names as its arguments.
    named = key.split(".")[-1]
    assert re.search(rf"`([a-z]+\.)?{named}(\[0\])?`", str(refused.value))
    check_sentence(str(refused.value), repr(value).strip("(),"))


def test_adaptive_optimizers_get_their_keys():
    for optimizer, ell in (("adam", 1), ("svag_adam", 3)):
        made = prepared(optimizer=optimizer, ell=ell, beta_1=0.5)
        assert (made.beta_1, made.beta_2, made.epsilon) == (0.5, 0.999, 1e-7)
    assert (made.ell, made.pairing) == (3, "halves")


def leaves(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


LEAVES = dict(leaves(configuration()))


def test_every_key_has_bad_values():
    # Refused by a sweep and by the check, where they are tested.
    others = {"scale_lr", "lsr.kappas"}
    assert LEAVES.keys() - others <= {key for key, *_ in BAD}


@pytest.mark.parametrize("value", [None, 3, "on", True, ["enabled"]])
@pytest.mark.parametrize("key", ["model.name", "lsr.enabled"])
def test_a_section_that_is_none_is_one_sentence(key, value):
    with pytest.raises(ValueError) as caught:
        prepared(**{key.split(".")[0]: value})
    check_sentence(str(caught.value), f"lacks `{key}`")


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_an_option_of_another_network_is_one_sentence(scale):
    with pytest.raises(ValueError, match="no option of 'vgg', got") as caught:
        prepared(scale=scale, **{"model.name": "vgg"})
    check_sentence(str(caught.value), "`model.hidden_units`", "depth")


def test_the_configuration_is_otherwise_good():
    prepared()
    prepared(
        optimizer="ngd", measure_noise=False, ell=1, scale=0.5, num_examples=8
    )


def test_a_missing_key_is_named():
    for key in LEAVES:
        config = configuration()
        section, name = config, key
        if "." in key:
            outer, name = key.split(".")
            section = config[outer]
        del section[name]
        # One that knows no types, as a file of the user's may make it.
        config = ml_collections.ConfigDict(config, type_safe=False)
        if key in REQUIRED:
            with pytest.raises(ValueError, match=f"lacks `{key}`"):
                scaled_down(config)
        else:
            compile_model(config, SMALL, make_plan(config, 8))
