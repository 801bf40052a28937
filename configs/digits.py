"""SGD on the optical digits of scikit-learn: the quick demonstration.

A scale-invariant perceptron on 1,437 images of 8×8, at batch size 16. Its
weights come to rest over 1/(2ηλ) = 125 steps, 1.4 epochs, which the last 20
epochs are enough to show: the verdict is one on an equilibrium.

    python train.py --config=configs/digits.py --workdir=runs/digits

SVAG with amplification 4 in its place, which is nearer to the SDE of SGD, is
`--config.ell=4`, at four times the cost.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.batch_size = 16
    config.epochs = 80

    config.model.name = "scale_invariant_mlp"
    config.model.hidden_units = (64, 64)

    config.ell = 1
    config.pairing = "halves"
    config.learning_rate = 0.2
    config.weight_decay = 2e-2
    return config
