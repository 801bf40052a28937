"""Which part of a sweep a process takes, of several that share it."""

import re


def shard_of(text, environment):
    """`(index, count)`: which part, counted from 1, of how many.

    `text` is `"i/n"`, or None: then it is the place of the task in a Slurm
    array, which may begin at any number, or `(1, 1)`.
    """
    if text is not None:
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip(), re.ASCII)
        index, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= index <= count:
            raise ValueError(
                "--shard must be i/n, the i-th of n parts counted from 1, "
                f"such as 1/4, 2/4, 3/4 and 4/4, got {text!r}."
            )
        return index, count
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "COUNT")]
    if not environment.keys() >= {*names}:
        return 1, 1
    task, first, count = (int(environment[name]) for name in names)
    if task - first >= count:
        raise ValueError(
            "A Slurm array over a sweep must have no gaps, as in "
            f"--array=0-3, got task {task} of {count} from {first} on; submit "
            "such a one, or give --shard."
        )
    return task - first + 1, count


def dealt(items, cost, index, count):
    """The items of one part, in their order.

    The dearest are dealt first, so that the parts take about as long as one
    another; all parts together are the items, each once.
    """
    places = range(len(items))
    dearest_first = sorted(places, key=lambda i: -cost(items[i]))
    return [items[i] for i in sorted(dearest_first[index - 1 :: count])]
