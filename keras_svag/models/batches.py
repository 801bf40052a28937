"""A batch: arrays or tensors in any nest, of which parts may be None."""

from keras import tree


def arrays_of(batch):
    """The arrays of a batch, as a list."""
    return [leaf for leaf in tree.flatten(batch) if leaf is not None]


def map_arrays(function, batch):
    """The batch with `function` of each array in its place."""
    return tree.map_structure(
        lambda leaf: None if leaf is None else function(leaf), batch
    )


def num_rows(batch):
    """Number of examples of a batch; None if its shape does not say it."""
    return arrays_of(batch)[0].shape[0]
