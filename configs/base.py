"""Every key that a configuration has, for the other files to fill in."""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.dataset = "digits"
    config.augmentation = False
    # None: all of them.
    config.num_examples = ml_collections.config_dict.placeholder(int)
    # "without_replacement" draws each sub-batch of b examples apart from all
    # others: N then reads low by the factor (n - b) / (n - 1), uncorrected.
    config.sampling = "with_replacement"
    config.batch_size = 32
    config.epochs = 10
    config.seed = 0
    config.scale = 1.0
    # Of a swept batch size: "linear" or, for Adam and RMSprop, "square_root".
    config.scale_lr = "none"

    # The network's name and its options, those of keras_svag.applications.
    config.model = ml_collections.ConfigDict()

    config.optimizer = "svag"
    config.ell = 1
    config.pairing = "independent"
    config.learning_rate = 0.1
    config.momentum = 0.0
    config.weight_decay = 0.0
    # None: the optimizer's own. Only for those that have them.
    config.beta_1 = ml_collections.config_dict.placeholder(float)
    config.beta_2 = ml_collections.config_dict.placeholder(float)
    config.rho = ml_collections.config_dict.placeholder(float)
    config.epsilon = ml_collections.config_dict.placeholder(float)
    config.schedule = "constant"
    config.milestones = ()
    config.decay_factor = 0.1
    config.warmup_epochs = 0.0
    config.warmup_factor = 0.1
    config.micro_batch_size = 500

    # Batches that grow between epochs, by factors of 2 and with the scaling
    # rule, to max_batch_size at most: "measured", as far as the check (lsr)
    # allows; "seesaw", where the schedule has halved the rate, if a check
    # allows it; "always", after each of growth_epochs; "none".
    config.growth = "none"
    config.max_batch_size = ml_collections.config_dict.placeholder(int)
    config.growth_epochs = ()
    # Whether a verdict that is a heuristic lets them "grow".
    config.on_heuristic = "stay"

    # By the pairs of an SVAGModel, or beside the training of any other model.
    config.measure_noise = True
    config.validate_every = 1

    config.lsr = ml_collections.ConfigDict()
    config.lsr.enabled = True
    config.lsr.closeness = 2**0.5
    config.lsr.kappas = (0.25, 0.5, 2, 4, 8, 16)
    config.lsr.window = ml_collections.config_dict.placeholder(int)
    config.lsr.per_layer = False
    return config
