"""SVAG on the optical digits of scikit-learn: the quick demonstration.

A scale-invariant perceptron on 1,437 images of 8×8, simulating the SDE of SGD
at batch size 16 with amplification 4.

    python train.py --config=configs/digits.py --workdir=runs/digits
"""

from configs import base


def get_config():
    config = base.get_config()
    config.batch_size = 16
    config.epochs = 40

    config.model.name = "scale_invariant_mlp"
    config.model.hidden_units = (64, 64)

    config.ell = 4
    config.learning_rate = 0.2
    config.weight_decay = 5e-3
    return config
