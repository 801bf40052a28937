"""The paper's PreResNet-8 with group norm, to equilibrium on two cores.

Eight channels wide, on 10,000 images of CIFAR-10 without augmentation, with
weight decay 2e-3: at learning rate 0.8 and batch size 128, R, G and N relax
within 1/(2 eta lambda) = 312 steps, four epochs, so that 20 epochs hold that
time five times over. See docs/experiments.md for what came out.

    python train.py --config=configs/cifar10_preresnet8.py \
        --data_dir=$HOME/tensorflow_datasets --workdir=runs/svag \
        --sweep ell=1,2,4,8 --sweep seed=0,1
"""

from configs import cifar10


def get_config():
    config = cifar10.get_config()
    config.augmentation = False
    config.num_examples = 10_000
    config.epochs = 20

    config.model.depth = 8
    config.model.normalization = "group"
    config.model.base_width = 8

    config.pairing = "halves"
    config.weight_decay = 2e-3
    config.schedule = "constant"
    config.validate_every = 10
    return config
