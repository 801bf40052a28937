"""Batches whose leaves are sliced as NumPy's are: those of JAX and PyTorch.

What the two do alike with such batches is here too.
"""

from keras_svag.backend.batches import (
    arrays_of,
    check_rows,
    first_with_rows,
    has_rows,
    map_rows,
)
from keras_svag.backend.pairs import PairProgram as AnyProgram
from keras_svag.backend.pairs import place_in_training
from keras_svag.backend.train_function import TrainFunction


def num_rows(batch):
    """Number of examples of a batch."""
    shape = first_with_rows(batch).shape
    return shape[0] if len(shape) else None


def fewest_rows(batch):
    """Rows of a batch of `fit`.

    Raises:
        ValueError: If the batch cannot be halved.
    """
    return check_rows(
        [leaf.shape[0] for leaf in arrays_of(batch) if has_rows(leaf)]
    )


def first_rows(batch, most):
    """At most so many rows of a batch."""
    return map_rows(lambda leaf: leaf[:most], batch)


def halves(batch):
    """The batch of rows 0, 2, 4, … and that of rows 1, 3, 5, …."""
    return tuple(map_rows(lambda leaf, i=i: leaf[i::2], batch) for i in (0, 1))


def even_number_of_rows(batch):
    """The batch without its last row if it has an odd number of them."""
    rows = num_rows(batch)
    return first_rows(batch, rows - rows % 2)


class PairProgram(AnyProgram):
    """Measures the two halves of batches on one device, or as if on one."""

    def _moments(self, batch):
        parts = halves(batch)
        # Each half draws its own random numbers.
        pair = [self._gradients(half) for half in parts]
        values = self._observation(pair, batch, parts, num_rows)
        return values | place_in_training(self.model)

    def _losses(self, batch):
        parts = halves(batch)
        whole, *losses = map(self._loss_in_inference, (batch, *parts))
        mean = self._mean_loss(parts, losses, num_rows)
        return {"whole": whole, "mean": mean}

    def _gradients(self, half):
        """The gradients of a half, which change nothing but random seeds."""
        raise NotImplementedError

    def _loss_in_inference(self, part):
        return self.loss_of(part, training=False)


class FirstCall(TrainFunction):
    """Looks at the first batches, as far as they can be halved.

    See `keras_svag.backend.tensorflow.FirstCall`.
    """

    def __init__(self, model, feed, note):
        super().__init__(model)
        self._feed = feed

    def _call(self, *arguments):
        *state, data = arguments
        batches = self._batches(data)
        for batch in batches:
            fewest_rows(batch)
        return self.found(*state, self._feed.with_rest(batches, data))
