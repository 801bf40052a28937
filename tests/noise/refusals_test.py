"""Bad arguments of the estimates."""

from keras_svag import NoiseEstimate
from tests.helpers.refusals import (
    INF,
    NAN,
    NO_NUMBER,
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


def cases_of_sizes():
    yield from refused_numbers(ESTIMATE.at, {}, "batch_size", NO_SIZE)
    call = NoiseEstimate.from_observations
    good = {"grad_sq_norm": [1.0], "example_noise": [2.0]}
    yield from refused_numbers(call, good, "num_examples", (1, *NO_SIZE))
    yield from refused(
        call, good, "sampling", (1, True, [], "with_replacement")
    )


@table(cases_of_levels(), cases_of_sizes())
def test_bad_argument_is_one_sentence(case, tmp_path):
    check_refused(case, tmp_path)
