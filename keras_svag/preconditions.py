"""Without these there is no check of the linear scaling rule: one sentence."""

from keras_svag.examples import open_examples


def check_trainable_weights(model):
    """Raises if a built model has nothing to train."""
    if model.built and not model.trainable_variables:
        raise ValueError(
            f"The model {model.name!r} has no trainable weights, so there is "
            "no gradient whose noise could be measured; make a layer trainable."
        )


def check_metric(metric):
    """Raises if there is no noise metric."""
    if metric is None:
        raise ValueError(
            "LinearScalingRuleCheck found no gradient noise to read: wrap the "
            "model in keras_svag.SVAGModel(model), with measure_noise, or pass "
            "probe=(x, y)."
        )


def check_probe(data, model, batch_size):
    """Raises if a probe could not draw a batch from `data`."""
    num_examples = open_examples(data, model).num_examples
    if num_examples < batch_size:
        raise ValueError(
            f"`probe` must have at least {batch_size:,} examples, those of a "
            f"batch, got {num_examples:,}."
        )


def check_window(window, epochs):
    """Raises if the window is longer than a run of so many epochs."""
    if window and epochs and window > epochs:
        raise ValueError(
            f"`window` must be at most the {epochs} epochs of the run, got "
            f"{window}."
        )


def check_sizes(metric, batch_size, num_examples):
    """Raises if the metric knows of other sizes, as far as it knows any."""
    if metric.batch_size not in (None, batch_size):
        raise ValueError(
            f"`batch_size` must be {metric.batch_size}, at which the noise of "
            f"this run is measured, got {batch_size}; it is the batch size of "
            "the SGD that is simulated, over all replicas: half of the batches "
            "that are fed for SVAG with pairing='independent', otherwise all "
            "of them."
        )
    if num_examples is not None and metric.num_examples not in (
        None,
        num_examples,
    ):
        raise ValueError(
            f"`num_examples` must be {metric.num_examples}, as the SVAGModel "
            f"was told, or left out, got {num_examples}."
        )
