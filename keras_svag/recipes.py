"""An experiment's recipe, scaled down for a small machine."""

import copy

from keras_svag.configuration import check_complete, check_values

# What [L21] and the digits train on; `num_examples` of None means all.
TRAINING_SET_SIZES = {
    "digits": 1_437,
    "mnist": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "svhn_cropped": 73_257,
}

_VGG_DEPTHS = (11, 13, 16, 19)

# Of the networks' own defaults; `base_width` of None means these.
_BASE_WIDTHS = {"pre_resnet": 16, "resnet": 16, "vgg": 64}


def scaled_down(config):
    """Scales a configuration by its key `scale`, a number in (0, 1].

    Depth, width, epochs and the number of training examples are multiplied by
    it and rounded to what the network and the training allow. Milestones,
    warm-up and averaging window keep their part of the epochs; batch size,
    learning rate and weight decay stay. Scaled are the numbers that stand in
    the configuration, overrides included.

    Args:
        config: a configuration, a `ConfigDict` or a nested dict. It is not
            changed. Without `scale` it counts as 1.

    Returns:
        A copy of `config`, scaled. It keeps `scale`, to tell where its
        numbers come from.

    Raises:
        TypeError: if `scale` is no number.
        ValueError: if it is not in (0, 1], or another key holds what no run
            can have.
    """
    config = copy.deepcopy(config)
    scale = config.get("scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise TypeError(f"`scale` must be a number, got {scale!r}.")
    if not 0 < scale <= 1:
        raise ValueError(
            "`scale` must be above 0 and at most 1, which is the paper's "
            f"size, got {scale!r}."
        )
    check_values(config)
    if scale == 1:
        return config
    check_complete(config)
    _scale_epochs(config, scale)
    _scale_network(config["model"], scale)
    num_examples = config.get("num_examples")
    if num_examples is None:
        num_examples = TRAINING_SET_SIZES.get(config["dataset"])
    if num_examples is not None:
        config["num_examples"] = max(1, round(num_examples * scale))
    return config


def _scale_epochs(config, scale):
    epochs = config["epochs"]
    config["epochs"] = max(1, round(epochs * scale))
    # Of the epochs that there are, not of `scale`: rounding moves nothing.
    kept = config["epochs"] / epochs
    config["milestones"] = tuple(m * kept for m in config["milestones"])
    if config.get("warmup_epochs"):
        config["warmup_epochs"] *= kept
    window = config.get("lsr", {}).get("window")
    if window is not None:
        config["lsr"]["window"] = max(1, round(window * kept))
    if config.get("validate_every"):
        config["validate_every"] = min(
            config["validate_every"], config["epochs"]
        )


def _scale_network(network, scale):
    if "depth" in network:
        network["depth"] = _scaled_depth(
            network["name"], network["depth"], scale
        )
    width = network.get("base_width") or _BASE_WIDTHS.get(network["name"])
    if width and "base_width" in network:
        # Group normalization needs a multiple of its groups, 8 by default.
        groups = network.get("groups", 8)
        network["base_width"] = groups * max(1, round(width / groups * scale))
    if "hidden_units" in network:
        network["hidden_units"] = tuple(
            max(2, round(units * scale)) for units in network["hidden_units"]
        )


def _scaled_depth(name, depth, scale):
    if name == "vgg":
        allowed = [d for d in _VGG_DEPTHS if d <= depth * scale]
        return max(allowed, default=min(_VGG_DEPTHS))
    blocks_per_stage = (depth - 2) / 6
    return 6 * max(1, round(blocks_per_stage * scale)) + 2
