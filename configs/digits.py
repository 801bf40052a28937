"""SVAG on the optical digits of scikit-learn: the quick demonstration.

A scale-invariant perceptron on 1,437 images of 8×8, simulating the SDE of SGD
at batch size 16 with amplification 4.

    python train.py --config=configs/digits.py --workdir=runs/digits
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.dataset = "digits"
    config.augmentation = False
    config.num_examples = ml_collections.config_dict.placeholder(int)
    config.sampling = "with_replacement"
    config.batch_size = 16
    config.epochs = 40
    config.seed = 0
    config.scale = 1.0
    config.scale_lr = "none"

    config.model = ml_collections.ConfigDict()
    config.model.name = "scale_invariant_mlp"
    config.model.hidden_units = (64, 64)

    config.optimizer = "svag"
    config.ell = 4
    config.pairing = "independent"
    config.learning_rate = 0.2
    config.momentum = 0.0
    config.weight_decay = 5e-3
    config.schedule = "constant"
    config.milestones = ()
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
