"""Bad values of the keys of a configuration."""

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
from keras_svag.arguments import is_number
from tests.helpers.refusals import (
    INF,
    NAN,
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
    model = compile_model(config, dataset, plan)
    training_data(config, dataset, plan)
    return model.optimizer


def optional(values):
    """The values without None."""
    return tuple(value for value in values if value is not None)


def bad(key, values, error=ValueError, **good):
    KEYS[key] = values
    # What the network refuses it names as its arguments.
    named = key if key in ("model.name", "model.depth") else key.split(".")[-1]
    return refused(prepared, good, key, values, error, named=named)


def bad_numbers(key, values, **good):
    # A dict would become a section.
    for value in values:
        if value != {}:
            error = ValueError if is_number(value) else TypeError
            yield from bad(key, [value], error, **good)


def cases_of_data_and_steps():
    yield from bad("dataset", (*NO_STRING, "imagenet", "", "../digits"))
    yield from bad_numbers("num_examples", optional((*NO_COUNT, 9)))
    yield from bad("sampling", (*NO_STRING, "random", ""))
    yield from bad_numbers("batch_size", (*NO_COUNT, 9))
    yield from bad_numbers("epochs", NO_COUNT)
    yield from bad_numbers("seed", (*NO_INTEGER, -1, 2**64))
    yield from bad_numbers("scale", (*NO_NUMBER, 0, -1, 1.5, NAN, INF))
    yield from bad_numbers("validate_every", NO_COUNT)


def cases_of_the_optimizer():
    yield from bad("optimizer", (*NO_STRING, "sgdm", ""))
    yield from bad_numbers("ell", NO_COUNT)
    yield from bad("ell", [2], optimizer="sgd")
    yield from bad("pairing", (*NO_STRING, "both", ""))
    yield from bad_numbers("learning_rate", NOT_NONNEGATIVE)
    yield from bad_numbers("momentum", (*NOT_NONNEGATIVE, 1, 0.9))
    sgd = {"optimizer": "sgd"}
    yield from bad_numbers("momentum", (*NOT_NONNEGATIVE, 1, 1.5), **sgd)
    yield from bad_numbers("weight_decay", NOT_NONNEGATIVE)
    for key, optimizer in (("beta_1", "adam"), ("beta_2", "svag_adam")):
        bad_betas = optional((*NOT_NONNEGATIVE, 1, 1.5))
        yield from bad_numbers(key, bad_betas, optimizer=optimizer, ell=1)
        # SVAG takes none.
        yield from bad(key, [0.9])
    rmsprop = {"optimizer": "rmsprop", "ell": 1}
    yield from bad_numbers("rho", optional((*NOT_NONNEGATIVE, 1)), **rmsprop)
    yield from bad_numbers("epsilon", optional(NOT_NONNEGATIVE), **rmsprop)
    yield from bad("schedule", (*NO_STRING, "zigzag", ""))
    yield from bad("milestones", (None, 2, "12", ("2",)), TypeError)
    yield from bad("milestones", ((0,), (2, 1), (NAN,)))
    yield from bad_numbers("decay_factor", NOT_POSITIVE)
    yield from bad_numbers("warmup_epochs", (*NOT_NONNEGATIVE, 81))
    yield from bad_numbers("warmup_factor", (*NOT_POSITIVE, 1.5))
    ngd = {"optimizer": "ngd", "measure_noise": False, "ell": 1}
    yield from bad_numbers("micro_batch_size", NO_COUNT, **ngd)
    yield from bad("augmentation", [True], **ngd)


def cases_of_switches():
    for key in (
        "augmentation",
        "measure_noise",
        "lsr.enabled",
        "lsr.per_layer",
    ):
        yield from bad(key, ("False", None, 0, 1.0), TypeError)


def cases_of_the_check():
    yield from bad_numbers("lsr.closeness", (*NOT_POSITIVE, 1))
    yield from bad_numbers("lsr.window", optional(NO_COUNT))


def cases_of_the_network():
    yield from bad("model.name", (*NO_STRING, "lenet", ""))
    yield from bad("model.hidden_units", (8, "8"), TypeError)
    for units in ((), (0,), (-2,), (2.5,), (NAN,)):
        yield from bad("model.hidden_units", [units])
    yield from bad("model.depth", (20,))
    yield from bad("model.normalization", ("none", "", 3))


@table(
    cases_of_data_and_steps(),
    cases_of_the_optimizer(),
    cases_of_switches(),
    cases_of_the_check(),
    cases_of_the_network(),
)
def test_bad_value_is_one_sentence(case, tmp_path):
    check_refused(case, tmp_path)


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
    assert LEAVES.keys() - others <= KEYS.keys()


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


@pytest.mark.parametrize("key", sorted(LEAVES))
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
