"""Bad values of the keys of a configuration."""

import dataclasses

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
from tests.helpers.refusals import (
    INF,
    NAN,
    NO_BOOLEAN,
    NO_COUNT,
    NO_INTEGER,
    NO_NUMBER,
    NO_STRING,
    NOT_NONNEGATIVE,
    NOT_POSITIVE,
    check_refused,
    check_sentence,
    refused,
    table,
)

NO_KAPPAS = ("24", None, 2, True, (0.5,), (2, NAN), (2, INF), (2, "4"), (True,))
NO_WIDTHS = ((), (0,), (-2,), (2.5,), (True,), (NAN,), 8, "8", {})

SMALL = datasets.Dataset(
    name="digits",
    train_images=np.zeros((8, 4, 4, 1), np.uint8),
    train_labels=np.zeros(8, np.int32),
    test_images=np.zeros((2, 4, 4, 1), np.uint8),
    test_labels=np.zeros(2, np.int32),
    num_classes=10,
    mean=(0.5,),
    std=(0.5,),
    max_value=16,
)
KEYS = {}


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
    compile_model(config, dataset, plan)
    training_data(config, dataset, plan)


def optional(values):
    """The values without None."""
    return tuple(value for value in values if value is not None)


def bad(key, values, error=ValueError, **good):
    KEYS[key] = values
    # It would become a section, whose text has a line for each key.
    values = [value for value in values if value != {}]
    # What the network and the check refuse they name as their arguments.
    named = key if key in ("model.name", "model.depth") else key.split(".")[-1]
    return refused(prepared, good, key, values, error, named=named)


def cases_of_data_and_steps():
    yield from bad("dataset", NO_STRING)
    for case in bad("dataset", ("imagenet", "", "../digits")):
        yield dataclasses.replace(case, name="name")
    yield from bad("augmentation", NO_BOOLEAN)
    yield from bad("num_examples", optional((*NO_COUNT, 9)))
    yield from bad("sampling", (*NO_STRING, "random", ""))
    yield from bad("batch_size", (*NO_COUNT, 9))
    yield from bad("epochs", NO_COUNT)
    yield from bad("seed", (*NO_INTEGER, -1, 2**64))
    yield from bad("scale", NO_NUMBER[:-1], TypeError)
    yield from bad("scale", (0, -1, 1.5, NAN, INF))
    yield from bad("scale_lr", NO_STRING)
    yield from bad("validate_every", NO_COUNT)
    yield from bad("measure_noise", NO_BOOLEAN)


def cases_of_the_optimizer():
    yield from bad("optimizer", (*NO_STRING, "sgdm", "", {}))
    yield from bad("ell", NO_COUNT)
    yield from bad("ell", [2], optimizer="sgd")
    yield from bad("pairing", (*NO_STRING, "both", ""))
    yield from bad("learning_rate", NOT_NONNEGATIVE)
    yield from bad("momentum", (*NOT_NONNEGATIVE, 1, 0.9))
    yield from bad("momentum", (*NOT_NONNEGATIVE, 1, 1.5), optimizer="sgd")
    yield from bad("weight_decay", NOT_NONNEGATIVE)
    yield from bad("schedule", (*NO_STRING, "zigzag", ""))
    yield from bad("milestones", (None, 2, "12", (0,), (2, 1), (NAN,), ("2",)))
    yield from bad("decay_factor", NOT_POSITIVE)
    yield from bad("warmup_epochs", (*NOT_NONNEGATIVE, 41))
    yield from bad("warmup_factor", (*NOT_POSITIVE, 1.5))
    ngd = {"optimizer": "ngd", "measure_noise": False, "ell": 1}
    yield from bad("micro_batch_size", NO_COUNT, **ngd)
    yield from bad("augmentation", [True], **ngd)


def cases_of_the_check():
    yield from bad("lsr.enabled", NO_BOOLEAN)
    yield from bad("lsr.closeness", (*NOT_POSITIVE, 1))
    yield from bad("lsr.kappas", NO_KAPPAS)
    yield from bad("lsr.window", optional(NO_COUNT))
    yield from bad("lsr.per_layer", NO_BOOLEAN)
    yield from bad("lsr", (None, 3, "on", True, ["enabled"]))


def cases_of_the_network():
    yield from bad("model", (None, 3, "vgg", True, ["vgg"]))
    yield from bad("model.name", (*NO_STRING, "lenet", ""))
    yield from bad("model.hidden_units", [("8",)], TypeError)
    yield from bad("model.hidden_units", NO_WIDTHS)
    yield from bad("model.depth", (20,))
    yield from bad("model.normalization", ("none", "", 3))


@table(
    cases_of_data_and_steps(),
    cases_of_the_optimizer(),
    cases_of_the_check(),
    cases_of_the_network(),
)
def test_bad_value_is_one_sentence(case, tmp_path):
    check_refused(case, tmp_path)


def leaves(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_every_key_has_bad_values():
    assert set(leaves(configuration())) <= set(KEYS)


def test_the_configuration_is_otherwise_good():
    prepared()
    prepared(
        optimizer="ngd", measure_noise=False, ell=1, scale=0.5, num_examples=8
    )


@pytest.mark.parametrize("key", sorted(leaves(configuration())))
def test_a_missing_key_is_named(key):
    config = configuration()
    section, name = config, key
    if "." in key:
        outer, name = key.split(".")
        section = config[outer]
    del section[name]
    # One that knows no types, as a file of the user's may make it.
    config = ml_collections.ConfigDict(config, type_safe=False)
    if key in REQUIRED:
        with pytest.raises(ValueError) as caught:
            make_plan(config, 8)
        check_sentence(str(caught.value), f"`{key}`")
    else:
        compile_model(config, SMALL, make_plan(config, 8))
