"""Bad arguments of the estimates and of sampling."""

from keras_svag import NoiseEstimate
from keras_svag.noise.sampling import sampling_correction, sub_batch_indices
from tests.helpers.refusals import (
    INF,
    NAN,
    NO_NUMBER,
    NO_STRING,
    check_refused,
    refused,
    refused_numbers,
    table,
)

NO_LEVEL = (*NO_NUMBER, 0, 1, -0.5, 95, NAN, INF)
NO_SIZE = ("8", True, [8], 0, -1, 1.5, NAN, INF)
ESTIMATE = NoiseEstimate(1.0, 5.0, 0.1, 0.5, 0.0, 100, 32)


def cases_of_levels():
    for method in (
        ESTIMATE.interval,
        ESTIMATE.grad_sq_norm_sign,
        ESTIMATE.describe,
    ):
        yield from refused_numbers(method, {}, "level", NO_LEVEL)


def cases_of_sampling():
    good = {
        "sampling": "shuffle",
        "num_examples": 100,
        "batch_size": 8,
        "sub_batch_size": 4,
    }
    call = sampling_correction
    yield from refused(call, good, "sampling", (*NO_STRING, "random", []))
    for name in ("num_examples", "batch_size"):
        yield from refused_numbers(call, good, name, NO_SIZE)
    yield from refused(call, good, "num_examples", [1], says=(">= 2",))
    yield from refused(call, good, "batch_size", [101], says=("<= 100",))
    good["sampling"] = "without_replacement"
    yield from refused_numbers(call, good, "sub_batch_size", NO_SIZE)
    yield from refused(call, good, "sub_batch_size", [100], says=("<= 99",))

    call = sub_batch_indices
    good = {
        "sampling": "shuffle",
        "seed": 0,
        "index": 0,
        "num_examples": 37,
        "sub_batch_size": 4,
    }
    yield from refused(call, good, "sampling", ["bootstrap"])
    yield from refused_numbers(call, good, "sub_batch_size", (38, *NO_SIZE))
    yield from refused(
        call, good, "sub_batches_per_epoch", [10, 0], says=("<= 9",)
    )


@table(cases_of_levels(), cases_of_sampling())
def test_bad_argument_is_one_sentence(case, tmp_path):
    check_refused(case, tmp_path)
