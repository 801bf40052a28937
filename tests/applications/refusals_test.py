"""Bad arguments of the networks."""

from keras_svag import applications
from tests.helpers.refusals import (
    INF,
    NAN,
    NO_INTEGER,
    NO_NUMBER,
    NO_STRING,
    check_refused,
    refused,
    refused_numbers,
    table,
)

NO_SHAPES = (None, 8, "8x8", {}, True)


def integer(call, good, name, least, optional=False):
    bad = [v for v in NO_INTEGER if not (optional and v is None)]
    yield from refused_numbers(call, good, name, (*bad, least - 1, -7))


def sizes(call, good, name, lengths):
    yield from refused(call, good, name, NO_SHAPES, TypeError)
    yield from refused(call, good, name, lengths)
    rest = good[name][1:]
    for size in ("1", None, True):
        yield from refused(
            call, good, name, [(size, *rest)], TypeError, given=str(size)
        )
    for size in (0, -1, 2.5, NAN):
        yield from refused(call, good, name, [(size, *rest)], given=str(size))


def options(call, good, normalizations):
    yield from integer(call, good, "num_classes", 2)
    grouped = {**good, "normalization": "group"}
    yield from integer(call, grouped, "groups", 1)
    yield from integer(call, good, "seed", 0, optional=True)
    bad = (*NO_NUMBER, NAN, INF, -1e-9, 1, 1.5)
    yield from refused_numbers(call, good, "momentum", bad)
    bad = (*NO_STRING, "instance", "", *normalizations)
    yield from refused(call, good, "normalization", bad, says=("'group'",))


def cases_of_mlps():
    call = applications.ScaleInvariantMLP
    good = {"input_shape": (8, 8, 1), "num_classes": 10, "hidden_units": (8,)}
    yield from sizes(call, good, "input_shape", [()])
    yield from sizes(call, good, "hidden_units", [()])
    # A group of one unit would be normalized to 0.
    for normalization, units in (("layer", 1), ("group", 60), ("group", 8)):
        yield from refused(
            call,
            {**good, "normalization": normalization},
            "hidden_units",
            [(64, units)],
            given=units,
            says=("multiple of groups",),
        )
    yield from options(call, good, ["none"])


def cases_of_networks():
    for call, depth, size, wrong_depths, says in (
        (applications.PreResNet, 8, 8, (10, 33), "6n + 2"),
        (applications.ResNet, 8, 8, (10, 33), "6n + 2"),
        (applications.VGG, 11, 32, (12, 20), "one of 11, 13, 16, 19"),
    ):
        shape = (size, size, 3)
        good = {"depth": depth, "input_shape": shape, "num_classes": 10}
        yield from integer(call, good, "depth", depth)
        yield from refused(call, good, "depth", wrong_depths, says=(says,))
        yield from sizes(
            call, good, "input_shape", [(), (8,), (8, 8), (8, 8, 3, 1)]
        )
        least = size // 2 if call is not applications.VGG else size
        yield from refused(
            call,
            good,
            "input_shape",
            [(least - 1, 64, 3), (64, least - 1, 3)],
            says=(f"{least} x {least}",),
        )
        yield from integer(call, good, "widen_factor", 1)
        yield from integer(call, good, "base_width", 1)
        yield from options(call, good, ["layer"])
        grouped = {**good, "normalization": "group"}
        yield from refused(
            call, grouped, "base_width", [7, 12], says=("by groups = 8",)
        )


@table(cases_of_mlps(), cases_of_networks())
def test_bad_argument_is_one_sentence(case, tmp_path):
    check_refused(case, tmp_path)
