"""Files of configurations, what their keys may hold, and scaling them down."""

import copy
import math
import re

import ml_collections
import numpy as np
import pytest

from configs import digits, paper
from experiments import datasets
from experiments.build import (
    compile_model,
    load_data,
    make_plan,
    training_data,
)
from experiments.config import flat, load_config, scaled_down
from tests.helpers.refusals import check_sentence

GOOD = """from configs import digits
def get_config(ell=1):
    c = digits.get_config()
    c.ell = int(ell)
"""
# What a file holds, and what the sentence does.
FILES = [
    ("x = 1\n", ["'get_config'"]),
    ("def get_config():\n    pass\n", ["ConfigDict", "got None"]),
    ("x = 1\n\nget config\n", ["SyntaxError", "config.py, line 3"]),
    (
        "def fail():\n    raise ValueError('two\\nlines')\n"
        "def get_config():\n    fail()\n",
        ["line 2", "two lines"],
    ),
    (GOOD + "    del c.lsr.window\n    return c\n", ["lacks `lsr.window`"]),
    (GOOD + "    c.model.x = {1j}\n    return c\n", ["set is not JSON"]),
]


@pytest.mark.parametrize("content, says", FILES)
def test_a_file_without_a_configuration_is_one_sentence(
    tmp_path, content, says
):
    file = tmp_path / "config.py"
    file.write_text(content)
    with pytest.raises(ValueError) as refused:
        load_config(str(file))
    check_sentence(str(refused.value), str(file), *says)


def test_a_file_is_named_with_what_is_given_to_it(tmp_path):
    (tmp_path / "config.py").write_text(GOOD + "    return c\n")
    assert load_config(f"{tmp_path}/config.py:8").ell == 8
    for name in ("", "nosuch.py", "/"):
        with pytest.raises(ValueError) as refused:
            load_config(name)
        check_sentence(str(refused.value), "--config must name", repr(name))


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
    load, small = datasets.load, {"digits": SMALL}
    monkeypatch.setattr(
        datasets, "load", lambda name, _: small.get(name) or load(name)
    )


def configuration(**keys):
    """One that knows no types, as a file of the user's may make it."""
    config = digits.get_config().to_dict()
    config["batch_size"], config["model"]["hidden_units"] = 4, (4,)
    for key, value in keys.items():
        *section, last = key.split(".")
        (config[section[0]] if section else config)[last] = value
    return ml_collections.ConfigDict(config, type_safe=False)


def prepared(**keys):
    """All that is made of a configuration before anything is written."""
    config = scaled_down(configuration(**keys))
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
    ("model.hidden_units", (4,), {"model.name": "vgg", "scale": 0.5}),
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


LEAVES = [k for k in flat(configuration()) if k not in ("lsr", "model")]


def test_every_key_has_bad_values():
    # Refused by a sweep and by the check, where they are tested.
    others = {"scale_lr", "lsr.kappas"}
    assert {*LEAVES} - others <= {key for key, *_ in BAD}


def test_good_values_are_taken():
    prepared(scale=0.5, num_examples=8, **NGD)
    for optimizer, ell in (("adam", 1), ("svag_adam", 3)):
        made = prepared(optimizer=optimizer, ell=ell, beta_1=0.5)
        assert (made.beta_1, made.beta_2, made.epsilon) == (0.5, 0.999, 1e-7)
    assert (made.ell, made.pairing) == (3, "halves")


@pytest.mark.parametrize("key", ["epochs", "lsr", "lsr.window", "model.name"])
def test_a_missing_key_is_named(key):
    config = configuration()
    section, _, name = key.rpartition(".")
    del (config[section] if section else config)[name]
    with pytest.raises(ValueError, match=f"lacks `{key}"):
        scaled_down(config)


def of_paper(name="lsr-preresnet32-bn", **keys):
    config = paper.get_config(name)
    config.update(keys)
    return config


LATER = {"epochs": 160, "milestones": (80, 120)}
GROWN = {"epochs": 160, "growth_epochs": (80, 120)}
WARM = {"epochs": 160, "warmup_epochs": 2.0}
VGG = of_paper("svag-vgg16-gn")
MLP = digits.get_config()

# A configuration, the scale, and what it has then.
SCALED = [
    # 5 blocks a stage, 16 channels of which 8 groups need 8, 50,000 images.
    (of_paper(), 0.1, {"model.depth": 6 * 1 + 2, "model.base_width": 8}),
    (of_paper(), 0.1, {"epochs": 30, "milestones": (25,), "lsr.window": 5}),
    (of_paper(), 0.1, {"num_examples": 5_000, "scale": 0.1}),
    # Depth stays one that the network has.
    (of_paper(), 0.95, {"model.depth": 2 + 3 * 2 * 5}),
    (of_paper(), 0.6, {"model.depth": 2 + 3 * 2 * 3}),
    (of_paper(), 0.01, {"model.depth": 2 + 3 * 2 * 1, "epochs": 3}),
    (VGG, 0.99, {"model.depth": 13}),
    (VGG, 0.7, {"model.depth": 11}),
    (VGG, 0.1, {"model.depth": 11}),
    # Width stays one that 8 groups divide.
    (VGG, 0.9, {"model.base_width": 56}),
    (VGG, 0.3, {"model.base_width": 16}),
    (VGG, 0.01, {"model.base_width": 8}),
    (MLP, 0.25, {"model.hidden_units": (16, 16), "num_examples": 359}),
    # Milestones, growth and warm-up keep their part of the epochs.
    (of_paper(**LATER), 0.3, {"epochs": 48, "milestones": (24, 36)}),
    (of_paper(**LATER), 0.001, {"epochs": 1, "milestones": (0.5, 0.75)}),
    (of_paper(validate_every=5), 0.01, {"validate_every": 3}),
    (of_paper(**GROWN), 0.1, {"growth_epochs": (8, 12)}),
    (of_paper(**GROWN), 0.001, {"growth_epochs": (1, 1)}),
    (of_paper(**WARM), 0.5, {"warmup_epochs": 1.0}),
    (of_paper(**WARM), 0.013, {"warmup_epochs": 2 * 2 / 160}),
]


@pytest.mark.parametrize("config, scale, expected", SCALED)
def test_everything_is_scaled_and_recorded(config, scale, expected):
    config.scale = scale
    before = copy.deepcopy(config)
    scaled = flat(scaled_down(config))
    assert {key: scaled[key] for key in expected} == expected
    assert config == before
