"""Which training steps a monitor measures."""

from collections.abc import Mapping

import numpy as np

# Where the length is not given: blocks of 4 steps for 2,000 steps, then of a
# 500th of the steps done, until a hundredth of the steps is measured.
_FIRST, _BLOCKS_IN_RUN, _LONGEST = 4, 500, 100


class Blocks:
    """Draws one step at random of each block of training steps.

    A step at random, lest the data have a period. The seed is fixed where none
    is given, for all workers have to draw the same steps.

    Attributes:
        end: The first step after the present block; steps count from 0.
        due: The step of the block that is to be measured.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.end = self.due = 0
        self._random = np.random.default_rng(seed or 0)

    def is_due(self, step: int, steps: int, every: int | None) -> bool:
        """Whether the call of steps `step` to `step + steps` is measured.

        A block has `every` steps; if None, as many as suit the steps done.
        """
        if step + steps > self.end:
            if every is None:
                every = min(max(_FIRST, step // _BLOCKS_IN_RUN), _LONGEST)
            # Whole calls, so that an epoch may end within one.
            length = max(every // steps, 1) * steps
            self.end = step + length
            self.due = step + self.choose(length)
        return step <= self.due < step + steps

    def choose(self, count: int) -> int:
        """One of the numbers from 0 to `count - 1`."""
        return int(self._random.integers(count)) if count > 1 else 0

    def state_dict(self) -> dict:
        generator = self._random.bit_generator.state
        return {"block": [self.end, self.due], "generator": generator}

    def load_state_dict(self, state: Mapping) -> None:
        self._random.bit_generator.state = state["generator"]
        self.end, self.due = map(int, state["block"])
