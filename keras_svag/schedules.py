import keras

SCHEDULES = ("constant", "step", "cosine")


def learning_rate_schedule(
    name,
    learning_rate,
    steps_per_epoch,
    epochs,
    milestones=(),
    decay_factor=0.1,
):
    """A learning rate as a function of SGD's steps.

    Args:
        name: `"constant"`; `"step"`: times `decay_factor` from each of the
            epochs `milestones` on; `"cosine"`: from `learning_rate` to 0 over
            all epochs.
        learning_rate: SGD's learning rate at the start, a float.
        steps_per_epoch: SGD steps in an epoch.
        epochs: epochs of the whole training.
        milestones: increasing epochs.
        decay_factor: a float > 0.

    Returns:
        A float, or a `keras.optimizers.schedules.LearningRateSchedule`.

    Raises:
        ValueError: if `name` is unknown, or `milestones` do not increase.
    """
    if name not in SCHEDULES:
        raise ValueError(
            f"`schedule` must be one of {', '.join(SCHEDULES)}, got {name!r}."
        )
    if name == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            learning_rate, decay_steps=steps_per_epoch * epochs
        )
    if name == "constant" or not milestones:
        return float(learning_rate)
    if list(milestones) != sorted(set(milestones)) or milestones[0] <= 0:
        raise ValueError(
            "`milestones` must be increasing epochs > 0, got "
            f"{tuple(milestones)}."
        )
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        # Keras keeps a value up to and including its boundary.
        [round(epoch * steps_per_epoch) - 1 for epoch in milestones],
        [
            learning_rate * decay_factor**power
            for power in range(len(milestones) + 1)
        ],
    )
