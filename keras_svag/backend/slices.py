"""Batches whose leaves are sliced as NumPy's are: those of JAX and PyTorch."""

from keras_svag.backend.batches import arrays_of, check_rows, map_arrays


def num_rows(batch):
    """Number of examples of a batch."""
    shape = arrays_of(batch)[0].shape
    return shape[0] if len(shape) else None


def fewest_rows(batch):
    """Rows of a batch of `fit`.

    Raises:
        ValueError: If the batch cannot be halved.
    """
    return check_rows(
        [leaf.shape[0] for leaf in arrays_of(batch) if len(leaf.shape)]
    )


def first_rows(batch, most):
    """At most so many rows of a batch."""
    return map_arrays(lambda leaf: leaf[:most], batch)


def halves(batch):
    """The batch of rows 0, 2, 4, … and that of rows 1, 3, 5, …."""
    return tuple(
        map_arrays(lambda leaf, i=i: leaf[i::2], batch) for i in (0, 1)
    )


def even_number_of_rows(batch):
    """The batch without its last row if it has an odd number of them."""
    rows = num_rows(batch)
    return first_rows(batch, rows - rows % 2)
