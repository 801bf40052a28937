"""A scale-invariant perceptron on 10,000 images of CIFAR-10: small studies.

What configs/paper.py studies at full size, for two CPU cores: see
docs/experiments.md for the commands and what came out.

    python train.py --config=configs/cifar10_mlp.py --workdir=runs/mlp \
        --data_dir=$HOME/tensorflow_datasets
"""

import ml_collections

from configs import cifar10


def get_config():
    config = cifar10.get_config()
    config.augmentation = False
    config.num_examples = 10_000
    config.batch_size = 64
    config.epochs = 20

    config.model = ml_collections.ConfigDict()
    config.model.name = "scale_invariant_mlp"
    config.model.hidden_units = (64, 64)

    config.learning_rate = 0.5
    config.weight_decay = 5e-3
    config.schedule = "constant"
    config.validate_every = 2
    return config
