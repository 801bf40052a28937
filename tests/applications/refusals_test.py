"""Bad arguments of the networks and of the data sets."""

import numpy as np
import tensorflow as tf

from experiments import datasets
from keras_svag import applications
from keras_svag.noise.sampling import sub_batch_indices
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
    refused,
    table,
)

NO_REAL = ("1", None, [1], {}, 1j)
NO_WHOLE = (True, NAN, INF, -INF, 1.5, 2.0)
NO_SHAPES = (None, 8, "8x8", (), {}, True)
NO_IMAGE_SHAPES = (*NO_SHAPES, (8,), (8, 8), (8, 8, 3, 1))
IMAGES = np.zeros((4, 8, 8, 1), np.uint8)
LABELS = np.zeros(4, np.int32)


def integer(call, good, name, least, optional=False):
    """Rows for an integer of a network: a TypeError for what is no number."""
    kinds = tuple(v for v in NO_REAL if not (optional and v is None))
    yield from refused(call, good, name, kinds, TypeError)
    yield from refused(call, good, name, (*NO_WHOLE, least - 1, -7))


def options(call, good, normalizations):
    yield from integer(call, good, "num_classes", 2)
    grouped = {**good, "normalization": "group"}
    yield from integer(call, grouped, "groups", 1)
    yield from integer(call, good, "seed", 0, optional=True)
    yield from refused(call, good, "momentum", (*NOT_NONNEGATIVE, 1, 1.5))
    bad = (*NO_STRING, "instance", "", *normalizations)
    yield from refused(call, good, "normalization", bad)


def cases_of_mlps():
    call = applications.ScaleInvariantMLP
    good = {"input_shape": (8, 8, 1), "num_classes": 10, "hidden_units": (8,)}
    yield from refused(call, good, "input_shape", NO_SHAPES)
    for size in (0, -1, 2.5, True, NAN):
        yield from refused(call, good, "input_shape", [(size,)])
        yield from refused(call, good, "hidden_units", [(size,)])
    yield from refused(call, good, "hidden_units", (None, 8, "8", (), {}))
    yield from options(call, good, ["none"])


def cases_of_residual_networks():
    for call in (applications.PreResNet, applications.ResNet):
        good = {"depth": 8, "input_shape": (8, 8, 3), "num_classes": 10}
        yield from integer(call, good, "depth", 8)
        yield from refused(call, good, "depth", (9, 16), says=("6n + 2",))
        yield from refused(call, good, "input_shape", NO_IMAGE_SHAPES)
        yield from refused(call, good, "input_shape", [(2, 2, 3)])
        yield from integer(call, good, "widen_factor", 1)
        yield from integer(call, good, "base_width", 1)
        yield from options(call, good, ["layer"])
        grouped = {**good, "normalization": "group"}
        yield from refused(call, grouped, "base_width", [7], says=("groups",))


def cases_of_vgg():
    call = applications.VGG
    good = {"depth": 11, "input_shape": (32, 32, 3), "num_classes": 10}
    yield from integer(call, good, "depth", 11)
    yield from refused(call, good, "depth", (12, 20), says=("13",))
    yield from refused(call, good, "input_shape", NO_IMAGE_SHAPES)
    yield from refused(call, good, "input_shape", [(16, 16, 3)])
    yield from integer(call, good, "widen_factor", 1)
    yield from integer(call, good, "base_width", 1)
    yield from options(call, good, ["layer"])


def cases_of_loading():
    call = datasets.load
    yield from refused(call, {}, "name", (*NO_STRING, "", "imagenet", "../x"))
    good = {"name": "mnist"}
    yield from refused(call, good, "data_dir", (3, True, ["a"], NAN, {}))


def cases_of_batches():
    call = datasets.training_batches
    good = {
        "images": IMAGES,
        "labels": LABELS,
        "sub_batch_size": 2,
        "sub_batches_per_step": 2,
        "sampling": "shuffle",
        "seed": 0,
        "preprocess": lambda images: images,
    }
    yield from refused(call, good, "images", [IMAGES[:0]], given=0)
    yield from refused(call, good, "labels", [LABELS[:3]], given=3)
    wrong = tuple(v for v in NO_INTEGER if v is not None)
    yield from refused(call, good, "sub_batch_size", (*wrong, None), TypeError)
    yield from refused(call, good, "sub_batch_size", (0, -1, 5))
    yield from refused(
        call, good, "sub_batches_per_step", ("1", None, [1], 0, 3, NAN, -1)
    )
    yield from refused(call, good, "sampling", (*NO_STRING, "random"))
    yield from refused(call, good, "seed", (*wrong, None), TypeError)
    yield from refused(call, good, "seed", (2**63, -(2**63) - 1))
    yield from refused(call, good, "start_step", (*NO_INTEGER, -1))
    yield from refused(call, good, "sub_batches_per_epoch", (*wrong, 0, 3, 4))
    call = datasets.evaluation_batches
    good = {
        "images": IMAGES,
        "labels": LABELS,
        "batch_size": 2,
        "preprocess": lambda images: images,
    }
    yield from refused(call, good, "batch_size", NO_COUNT)
    yield from refused(call, good, "labels", [LABELS[:3]], given=3)
    del good["batch_size"]
    for call in (datasets.full_batches, datasets.single_examples):
        yield from refused(call, good, "labels", [LABELS[:3]], given=3)
        yield from refused(call, good, "images", [IMAGES[:0]], given=0)


def cases_of_pixels():
    call = datasets.standardization
    good = {"mean": (0.5,), "std": (0.5,), "max_value": 255}
    yield from refused(call, good, "std", [(0.0,), (-1.0,), (NAN,), ("a",)])
    yield from refused(call, good, "mean", [(NAN,), (INF,), ("a",), None])
    yield from refused(call, good, "max_value", NOT_POSITIVE)
    call = datasets.augment
    good = {"images": tf.constant(IMAGES), "seed": tf.constant([1, 2])}
    yield from refused(call, good, "images", [IMAGES[0]], given=(8, 8, 1))
    yield from refused(call, good, "pad", (*NO_INTEGER, -1))


def cases_of_draws():
    call = sub_batch_indices
    good = {
        "sampling": "shuffle",
        "seed": 0,
        "index": 0,
        "num_examples": 8,
        "sub_batch_size": 2,
    }
    yield from refused(call, good, "sampling", (*NO_STRING, "random", []))
    yield from refused(call, good, "seed", NO_NUMBER, TypeError)
    yield from refused(call, good, "index", [-1])
    yield from refused(call, good, "sub_batch_size", (0, -1, 9))
    yield from refused(call, good, "num_examples", NO_COUNT)
    yield from refused(call, good, "sub_batches_per_epoch", (0, 5, -1))


@table(
    cases_of_mlps(),
    cases_of_residual_networks(),
    cases_of_vgg(),
    cases_of_loading(),
    cases_of_batches(),
    cases_of_pixels(),
    cases_of_draws(),
)
def test_bad_argument_is_one_sentence(case, tmp_path):
    check_refused(case, tmp_path)
