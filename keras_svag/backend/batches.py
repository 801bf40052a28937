"""A batch: arrays or tensors in any nest, of which parts may be None."""

from keras import tree

CANNOT_HALVE = (
    "keras_svag.measure_gradient_noise(model, data) measures it by whole "
    "batches."
)


def arrays_of(batch):
    """The arrays of a batch, as a list."""
    return [leaf for leaf in tree.flatten(batch) if leaf is not None]


def map_arrays(function, batch):
    """The batch with `function` of each array in its place."""
    return tree.map_structure(
        lambda leaf: None if leaf is None else function(leaf), batch
    )


def has_rows(array):
    """Whether an array has rows; a scalar belongs to the whole batch."""
    shape = array.shape
    return (shape.rank if hasattr(shape, "rank") else len(shape)) != 0


def map_rows(function, batch):
    """The batch with `function` of each array that has rows in its place."""
    return map_arrays(
        lambda leaf: function(leaf) if has_rows(leaf) else leaf, batch
    )


def first_with_rows(batch):
    """The first array of a batch that has rows, or the first one."""
    arrays = arrays_of(batch)
    return next(filter(has_rows, arrays), arrays[0])


def check_rows(rows):
    """The number of rows that all leaves have, the known ones of `rows`.

    Raises:
        ValueError: If they differ.
    """
    known = {count for count in rows if count is not None}
    if len(known) > 1:
        raise ValueError(
            "GradientNoiseMonitor halves every batch, and the parts of this "
            "one have different numbers of rows, "
            f"{', '.join(map(str, sorted(known)))}: {CANNOT_HALVE}"
        )
    return min(known, default=None)
