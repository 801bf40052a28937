"""Data for a model that preprocesses them in its own `fit`, as in KerasHub."""

import keras
import tensorflow as tf

from keras_svag.models.batches import map_arrays, num_rows


def preprocesses(model):
    """Whether a model has the preprocessing step of KerasHub's tasks.

    It is their `preprocess_samples`, which may leave its arguments as they are.
    """
    return hasattr(model, "preprocess_samples")


def preprocessed_fit(
    model,
    x=None,
    y=None,
    batch_size=None,
    sample_weight=None,
    validation_data=None,
    validation_split=None,
    **kwargs,
):
    """The arguments of Keras's `fit` for those of the model's own.

    Arrays become a data set in the order that they have: as in the model's own
    `fit`, they are not shuffled.
    """
    if not isinstance(x, tf.data.Dataset):
        rows = _rows(x, y, sample_weight)
        y = sample_weight = None
        if validation_split and validation_data is None:
            trained = int(len(rows) * (1.0 - validation_split))
            validation_data = _batches(rows.skip(trained), batch_size)
            rows = rows.take(trained)
        validation_split = None
        x = _batches(rows, batch_size)
    if validation_data is not None:
        if not isinstance(validation_data, tf.data.Dataset):
            rows = _rows(*keras.utils.unpack_x_y_sample_weight(validation_data))
            validation_data = _batches(rows, batch_size)
        validation_data = _preprocessed(model, validation_data)
    return {
        "x": _preprocessed(model, x),
        "y": y,
        "sample_weight": sample_weight,
        "validation_data": validation_data,
        "validation_split": validation_split,
        **kwargs,
    }


def _rows(*arrays):
    data = keras.utils.pack_x_y_sample_weight(*arrays)
    return tf.data.Dataset.from_tensor_slices(data)


def _batches(rows, batch_size):
    size = batch_size or 32
    # Whole batches have a static number of rows.
    return rows.batch(size, drop_remainder=len(rows) % size == 0)


def _preprocessed(model, batches):
    def preprocess(*batch):
        # A tokenizer forgets the number of rows.
        rows = tf.TensorShape([num_rows(batch)])
        return map_arrays(
            lambda leaf: tf.ensure_shape(
                leaf, rows.concatenate(leaf.shape[1:])
            ),
            model.preprocess_samples(*batch),
        )

    return batches.map(preprocess, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
