import copy

import pytest

from configs import digits, paper
from experiments.config import scaled_down
from experiments.datasets.digits import NUM_TRAIN_EXAMPLES


def scaled(scale, **overrides):
    config = paper.get_config("lsr-preresnet32-bn")
    config.update({"scale": scale, **overrides})
    return scaled_down(config)


def test_everything_is_scaled_and_recorded():
    config = scaled(0.1)
    # 5 blocks a stage, 16 channels of which 8 groups need 8, 50,000 images.
    assert config.model.depth == 6 * 1 + 2
    assert config.model.base_width == 8
    assert config.epochs == 30
    assert config.milestones == (25,)
    assert config.lsr.window == 5
    assert config.num_examples == 5_000
    assert config.scale == 0.1


def test_the_configuration_itself_is_not_changed():
    config = paper.get_config("lsr-preresnet32-bn")
    config.scale = 0.2
    before = copy.deepcopy(config)
    scaled_down(config)
    assert config == before


@pytest.mark.parametrize("scale", [0.5, 0.3, 0.1, 0.01, 0.001])
def test_milestones_keep_their_part_of_the_epochs(scale):
    config = scaled(scale, epochs=160, milestones=(80, 120))
    assert config.epochs == max(1, round(160 * scale))
    parts = [milestone / config.epochs for milestone in config.milestones]
    assert parts == pytest.approx([1 / 2, 3 / 4])


@pytest.mark.parametrize(
    ("scale", "epochs"), [(0.5, (40, 60)), (0.1, (8, 12)), (0.001, (1, 1))]
)
def test_batches_grow_at_the_same_part_of_the_epochs(scale, epochs):
    config = scaled(scale, epochs=160, growth_epochs=(80, 120))
    assert config.growth_epochs == epochs


@pytest.mark.parametrize("scale", [0.5, 0.013])
def test_warmup_keeps_its_part_of_the_epochs(scale):
    config = scaled(scale, epochs=160, warmup_epochs=2.0)
    assert config.warmup_epochs / config.epochs == pytest.approx(2 / 160)


@pytest.mark.parametrize(
    ("scale", "blocks"), [(0.95, 5), (0.6, 3), (0.2, 1), (0.01, 1)]
)
def test_depth_stays_one_that_a_resnet_has(scale, blocks):
    assert scaled(scale).model.depth == 2 + 3 * 2 * blocks


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
