import pytest

from experiments.sweep.shard import dealt, shard_of


@pytest.mark.parametrize("count", [1, 2, 4, 7, 20])
def test_every_item_is_in_one_part_and_parts_cost_about_the_same(count):
    costs = [1, 2, 4, 8] * 3
    items = list(enumerate(costs))
    parts = [
        dealt(items, lambda item: item[1], index, count)
        for index in range(1, count + 1)
    ]
    assert sorted(sum(parts, [])) == items
    assert all(part == sorted(part) for part in parts)
    shares = [sum(cost for _, cost in part) for part in parts]
    assert max(shares) - min(shares) <= max(costs)


def array(*numbers):
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "COUNT")]
    return dict(zip(names, map(str, numbers), strict=True))


@pytest.mark.parametrize(
    ("text", "environment", "shard"),
    [
        ("4/4", array(0, 0, 9), (4, 4)),
        (None, {}, (1, 1)),
        (None, array(0, 0, 4), (1, 4)),
        (None, array(4, 1, 4), (4, 4)),
        # A task that is submitted again alone looks after all the runs.
        (None, array(3, 3, 1), (1, 1)),
        (None, {"SLURM_ARRAY_TASK_ID": "1"}, (1, 1)),
    ],
)
def test_a_flag_or_a_slurm_array_names_the_part(text, environment, shard):
    assert shard_of(text, environment) == shard


@pytest.mark.parametrize(
    ("text", "says"),
    [(t, f"--shard must be i/n.*{t!r}") for t in "0/4 5/4 1/0 1 a/b".split()]
    + [(None, "no gaps.*task 4 of 4 from 0 on")],
)
def test_no_part_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        shard_of(text, array(4, 0, 4))
