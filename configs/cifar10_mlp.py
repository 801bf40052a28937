"""A scale-invariant perceptron on 10,000 images of CIFAR-10: small studies.

What configs/paper.py studies at full size, for two CPU cores: see
docs/experiments.md for the commands and what came out.

    python train.py --config=configs/cifar10_mlp.py --workdir=runs/mlp \
        --data_dir=$HOME/tensorflow_datasets

With `:adam` it is trained by Adam, and a swept batch size follows the
square-root rule; `--config.scale_lr=linear` scales the learning rate alone, in
proportion, for contrast.

    python train.py --config=configs/cifar10_mlp.py:adam --workdir=runs/adam \
        --data_dir=$HOME/tensorflow_datasets \
        --sweep batch_size=16,32,64,128,256,512,1024 --sweep seed=0,1,2
"""

import sys

import ml_collections

from configs import cifar10


def get_config(optimizer="svag"):
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
    if optimizer == "adam":
        config.update(_ADAM)
    elif optimizer != "svag":
        sys.exit(
            "train.py: --config=configs/cifar10_mlp.py:NAME needs the name "
            f"adam, or none with the colon left out, got {optimizer!r}."
        )
    return config


_ADAM = {
    "optimizer": "adam",
    "scale_lr": "square_root",
    # The rule allows κ below 1/(1 - β₁) = 10: to B = 1,024, and down to any.
    "batch_size": 128,
    "learning_rate": 1e-3,
    "weight_decay": 0.5,
    # v forgets within 100 steps, 1.3 epochs: the condition needs v to follow.
    "beta_2": 0.99,
}
