"""The square-root scaling rule for Adam on the optical digits: a quick study.

The batch size is swept at a fixed number of epochs; learning rate, betas,
epsilon and weight decay follow it by the rule of Malladi et al. 2022, and the
report has the preconditioned noise and the bound that follows from it beside
what test accuracy and training loss did. The nine runs take 2:25 minutes of one
CPU core's time:

    python train.py --config=configs/digits_adam.py --workdir=runs/adam \
        --jobs=2 --sweep batch_size=8,32,128 --sweep seed=0,1,2
    python -m experiments.report runs/adam

`--config.scale_lr=linear` is the rule that is none for Adam, for contrast.
`--config=configs/digits_adam.py:rmsprop`, `:svag_adam` and `:svag_rmsprop` take
another optimizer, the last two with `--config.ell=4`.
"""

from configs import digits


def get_config(optimizer="adam"):
    config = digits.get_config()
    config.epochs = 20
    config.validate_every = 5

    config.optimizer = optimizer
    config.ell = 1
    config.learning_rate = 2e-3
    config.weight_decay = 0.5
    # v forgets in 100 steps, about an epoch: the condition needs v to follow.
    config["rho" if "rmsprop" in optimizer else "beta_2"] = 0.99
    config.scale_lr = "square_root"
    return config
