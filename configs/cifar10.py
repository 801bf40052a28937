"""Li, Malladi, Arora 2021: PreResNet-32 on CIFAR-10, by SGD or SVAG.

The paper's recipe: batch size 128, learning rate 0.8, weight decay 5e-4, no
momentum, 160 epochs, times 0.1 at epochs 80 and 120, partial batches dropped.
`--config.ell=1` is SGD; ell costs 2 ell passes over the data per SGD epoch.

    python train.py --config=configs/cifar10.py --workdir=runs/cifar10 \
        --data_dir=$HOME/tensorflow_datasets --config.ell=4
"""

import ml_collections

from configs import base


def get_config():
    config = base.get_config()
    config.dataset = "cifar10"
    config.augmentation = True
    config.batch_size = 128
    config.epochs = 160

    config.model.name = "pre_resnet"
    config.model.depth = 32
    config.model.normalization = "batch"
    config.model.widen_factor = 1
    config.model.base_width = ml_collections.config_dict.placeholder(int)
    config.model.momentum = 0.9

    config.learning_rate = 0.8
    config.weight_decay = 5e-4
    config.schedule = "step"
    config.milestones = (80, 120)
    return config
