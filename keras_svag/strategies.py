import tensorflow as tf

STRATEGIES = ("none", "mirrored")


def make_strategy(name, virtual_devices):
    """The distribution strategy of a run.

    Args:
        name: `"none"` or `"mirrored"`.
        virtual_devices: number of virtual CPUs to mirror over, or None for
            this machine's GPUs. They are made before TensorFlow is used.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: if there are virtual devices without mirroring, or fewer
            than one.
    """
    if virtual_devices is not None:
        if name != "mirrored" or virtual_devices < 1:
            raise ValueError(
                "--virtual_devices must be at least 1 and needs "
                f"--strategy=mirrored, got {virtual_devices} with "
                f"--strategy={name}."
            )
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * virtual_devices,
        )
    if name == "none":
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy(
        virtual_devices and [f"CPU:{i}" for i in range(virtual_devices)]
    )
