"""Which part of a sweep a process takes, of several that share it."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Shard:
    """A part of a grid.

    Attributes:
        index: which one, counted from 1.
        count: of how many.
    """

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text, environment):
        """The shard that a flag or else a Slurm array asks for.

        Args:
            text: `"i/n"`, with i from 1 to n, or None: then it is the task's
                place in the array, which may begin at any number.
            environment: dict of the environment variables.

        Raises:
            ValueError: if there is no such shard.
        """
        if text is not None:
            match = re.fullmatch(r"(\d+)/(\d+)", text.strip(), re.ASCII)
            index, count = map(int, match.groups()) if match else (0, 0)
            if not 1 <= index <= count:
                raise ValueError(
                    "--shard must be i/n, the i-th of n parts counted from 1, "
                    f"such as 1/4, 2/4, 3/4 and 4/4, got {text!r}."
                )
            return cls(index, count)
        names = [f"SLURM_ARRAY_TASK_{n}" for n in ("ID", "MIN", "COUNT")]
        values = [environment.get(name) for name in names]
        if None in values:
            return cls()
        given = ", ".join(map("{}={}".format, names, values))
        try:
            task, first, count = map(int, values)
        except ValueError:
            task, first, count = 0, 1, 0
        if not 0 <= task - first < count:
            raise ValueError(
                "A Slurm array over a sweep must have no gaps, as in "
                f"--array=0-3, got {given}; submit such a one, or give --shard."
            )
        return cls(task - first + 1, count)

    def of(self, items, cost):
        """The items of this part, in their order.

        The dearest are dealt first, so that the parts take about as long as
        one another, and all parts together are the items, each once.

        Args:
            items: list.
            cost: function from an item to a number.
        """
        dearest_first = sorted(
            range(len(items)), key=lambda i: cost(items[i]), reverse=True
        )
        own = sorted(dearest_first[self.index - 1 :: self.count])
        return [items[i] for i in own]
