"""Li, Malladi, Arora 2021: PreResNet-32 on CIFAR-10, by SGD or SVAG.

The paper's recipe: batch size 128, learning rate 0.8, weight decay 5e-4, no
momentum, 160 epochs, times 0.1 at epochs 80 and 120, partial batches dropped.
`--config.ell=1` is SGD; ell costs 2 ell passes over the data per SGD epoch.

    python train.py --config=configs/cifar10.py --workdir=runs/cifar10 \
        --data_dir=$HOME/tensorflow_datasets --config.ell=4
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.dataset = "cifar10"
    config.augmentation = True
    config.num_examples = ml_collections.config_dict.placeholder(int)
    config.sampling = "with_replacement"
    config.batch_size = 128
    config.epochs = 160
    config.seed = 0
    config.scale = 1.0
    config.scale_lr = "none"

    config.model = ml_collections.ConfigDict()
    config.model.name = "pre_resnet"
    config.model.depth = 32
    config.model.normalization = "batch"
    config.model.widen_factor = 1
    config.model.base_width = ml_collections.config_dict.placeholder(int)
    config.model.momentum = 0.9

    config.optimizer = "svag"
    config.ell = 1
    config.pairing = "independent"
    config.learning_rate = 0.8
    config.momentum = 0.0
    config.weight_decay = 5e-4
    config.schedule = "step"
    config.milestones = (80, 120)
    config.decay_factor = 0.1
    config.warmup_epochs = 0.0
    config.warmup_factor = 0.1
    config.micro_batch_size = 500

    config.measure_noise = True
    config.validate_every = 1

    config.lsr = ml_collections.ConfigDict()
    config.lsr.enabled = True
    config.lsr.closeness = 2**0.5
    config.lsr.kappas = (2, 4, 8, 16)
    config.lsr.window = ml_collections.config_dict.placeholder(int)
    config.lsr.per_layer = False
    return config
