import copy

import pytest

from configs import digits, paper
from experiments.config import flat, scaled_down
from experiments.datasets.digits import NUM_TRAIN_EXAMPLES


def scaled(scale, **overrides):
    config = paper.get_config("lsr-preresnet32-bn")
    config.update({"scale": scale, **overrides})
    return scaled_down(config)


# The scale, what the configuration has besides, and what it has then.
SCALED = [
    # 5 blocks a stage, 16 channels of which 8 groups need 8, 50,000 images.
    (
        0.1,
        {},
        {
            "model.depth": 6 * 1 + 2,
            "model.base_width": 8,
            "epochs": 16,
            "milestones": (25,),
            "lsr.window": 5,
            "num_examples": 5_000,
            "scale": 0.1,
        },
    ),
    # Depth stays one that a ResNet has.
    (0.95, {}, {"model.depth": 2 + 3 * 2 * 5}),
    (0.6, {}, {"model.depth": 2 + 3 * 2 * 3}),
    (0.01, {}, {"model.depth": 2 + 3 * 2 * 1, "epochs": 2}),
    # Milestones, growth and warm-up keep their part of the epochs.
    (0.3, {"milestones": (80, 120)}, {"epochs": 48, "milestones": (24, 36)}),
    (0.001, {"milestones": (80, 120)}, {"milestones": (0.5, 0.75)}),
    (0.1, {"growth_epochs": (80, 120)}, {"growth_epochs": (8, 12)}),
    (0.001, {"growth_epochs": (80, 120)}, {"growth_epochs": (1, 1)}),
    (0.5, {"warmup_epochs": 2.0}, {"warmup_epochs": 1.0}),
    (0.013, {"warmup_epochs": 2.0}, {"warmup_epochs": 2 * 2 / 160}),
]


@pytest.mark.parametrize("scale, overrides, expected", SCALED)
def test_everything_is_scaled_and_recorded(scale, overrides, expected):
    config = flat(scaled(scale, epochs=160, **overrides))
    assert {key: config[key] for key in expected} == expected


def test_the_configuration_itself_is_not_changed():
    config = paper.get_config("lsr-preresnet32-bn")
    config.scale = 0.2
    before = copy.deepcopy(config)
    scaled_down(config)
    assert config == before


@pytest.mark.parametrize(("scale", "depth"), [(0.99, 13), (0.7, 11), (0.1, 11)])
def test_depth_stays_one_that_a_vgg_has(scale, depth):
    config = paper.get_config("svag-vgg16-gn")
    config.scale = scale
    assert scaled_down(config).model.depth == depth


def test_width_stays_one_that_groups_divide():
    for scale in (0.9, 0.6, 0.3, 0.01):
        config = paper.get_config("svag-vgg16-gn")
        config.scale = scale
        width = scaled_down(config).model.base_width
        assert width % 8 == 0
        assert abs(width - 64 * scale) <= 4 or width == 8


def test_a_perceptron_is_scaled_in_its_units():
    config = digits.get_config()
    config.scale = 0.25
    config = scaled_down(config)
    assert config.model.hidden_units == (16, 16)
    assert config.num_examples == round(NUM_TRAIN_EXAMPLES / 4)
