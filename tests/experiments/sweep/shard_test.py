import pytest

from experiments.sweep.shard import Shard


def array(task, first, count):
    names = ("ID", "MIN", "COUNT")
    values = (task, first, count)
    pairs = zip(names, values, strict=True)
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in pairs}


@pytest.mark.parametrize("count", [1, 2, 4, 7, 20])
def test_every_item_is_in_one_part_and_parts_cost_about_the_same(count):
    costs = [1, 2, 4, 8] * 3
    items = list(enumerate(costs))
    parts = [
        Shard(index, count).of(items, cost=lambda item: item[1])
        for index in range(1, count + 1)
    ]
    assert sorted(sum(parts, [])) == items
    assert all(part == sorted(part) for part in parts)
    shares = [sum(cost for _, cost in part) for part in parts]
    assert max(shares) - min(shares) <= max(costs)


def test_a_part_is_named_by_its_flag():
    assert Shard.parse("3/4", array(0, 0, 9)) == Shard(3, 4)


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, Shard(1, 1)),
        (array(0, 0, 4), Shard(1, 4)),
        (array(4, 1, 4), Shard(4, 4)),
        # A task that is submitted again alone looks after all the runs.
        (array(3, 3, 1), Shard(1, 1)),
        ({"SLURM_ARRAY_TASK_ID": "1"}, Shard(1, 1)),
    ],
)
def test_a_task_of_a_slurm_array_has_its_part(environment, shard):
    assert Shard.parse(None, environment) == shard


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "1/0", "-1/4", "1", "", "a/b", "1/4/2", "1.0/2"]
)
def test_no_part_is_refused(text):
    with pytest.raises(ValueError, match="--shard must be i/n") as error:
        Shard.parse(text, {})
    assert repr(text) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", ["12", "x"])
def test_an_array_with_gaps_is_refused(task):
    with pytest.raises(ValueError, match="no gaps.*--array=0-3") as error:
        Shard.parse(None, array(task, 0, 4))
    assert f"SLURM_ARRAY_TASK_ID={task}" in str(error.value)
