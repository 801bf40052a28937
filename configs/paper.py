"""Li, Malladi, Arora 2021: the paper's experiments, one recipe a name.

    python train.py --config=configs/paper.py:list
    python train.py --config=configs/paper.py:svag-preresnet32-bn \
        --workdir=runs/svag --sweep ell=1,2,4,8,16 --sweep seed=0,1,2
    python train.py --config=configs/paper.py:lsr-preresnet32-bn \
        --workdir=runs/lsr --sweep batch_size=2,8,32,128,512,2048
    python train.py --config=configs/paper.py:ngd-preresnet32-gn \
        --workdir=runs/ngd --sweep optimizer=sgd,ngd

`--config.scale=0.1` scales depth, width, epochs and examples down. SVAG takes
2 ell passes over the data per SGD epoch, NGD n / B of them.

The paper's recipe, unless a name says otherwise: no momentum, learning rate
0.8, weight decay 5e-4, batch size 128, 160 epochs, times 0.1 at epochs 80 and
120, partial batches dropped, CIFAR's augmentation. Batches are drawn with
replacement, as the theory assumes.
"""

import sys

from configs import cifar10

PRERESNET32_BN = {"name": "pre_resnet", "depth": 32, "normalization": "batch"}
PRERESNET32_GN = {**PRERESNET32_BN, "normalization": "group"}
PRERESNET32_WIDE = {**PRERESNET32_BN, "widen_factor": 4}
RESNET32_BN = {**PRERESNET32_BN, "name": "resnet"}
VGG16_BN = {"name": "vgg", "depth": 16, "normalization": "batch"}
VGG16_GN = {**VGG16_BN, "normalization": "group"}
VGG16_NONE = {**VGG16_BN, "normalization": "none"}
VGG19_GN = {**VGG16_GN, "depth": 19}

# Linear scaling: eta = 0.8 B / 128. With ell = 1 SVAG is SGD, and measures.
LSR = {
    "epochs": 300,
    "milestones": (250,),
    "scale_lr": "linear",
    "lsr": {"window": 50},
}
# "halves" measures on the batch that is trained on; BatchNormalization would
# be another one on halves.
LSR_GN = {**LSR, "pairing": "halves"}
NGD = {
    "optimizer": "ngd",
    "augmentation": False,
    "batch_size": 500,
    "learning_rate": 3.2,
}
NO_NORMALIZATION = {"learning_rate": 0.01}

# Name: (what it is, model, what differs from the recipe).
STUDIES = {
    "svag-preresnet32-bn": ("SVAG and SGD, B = 128", PRERESNET32_BN, {}),
    "svag-preresnet32-bn-b64": (
        "SVAG and SGD, B = 64",
        PRERESNET32_BN,
        {"batch_size": 64},
    ),
    "svag-preresnet32-bn-b1024": (
        "SVAG and SGD, B = 1024",
        PRERESNET32_BN,
        {"batch_size": 1024},
    ),
    "svag-preresnet32-gn": ("SVAG and SGD, group norm", PRERESNET32_GN, {}),
    "svag-preresnet32-wide": ("SVAG and SGD, 4x wider", PRERESNET32_WIDE, {}),
    "svag-vgg16-bn": ("SVAG and SGD, VGG", VGG16_BN, {}),
    "svag-vgg16-gn": ("SVAG and SGD, VGG, group norm", VGG16_GN, {}),
    "svag-vgg16-none": (
        "SVAG and SGD, no normalization, eta = 0.01",
        VGG16_NONE,
        NO_NORMALIZATION,
    ),
    "svag-vgg16-none-decay1e-4": (
        "SVAG and SGD, no normalization, weight decay 1e-4",
        VGG16_NONE,
        {**NO_NORMALIZATION, "weight_decay": 1e-4},
    ),
    "svag-vgg16-none-warmup": (
        "SVAG and SGD, no normalization, first epoch at eta / 10",
        VGG16_NONE,
        {**NO_NORMALIZATION, "warmup_epochs": 1.0},
    ),
    "svag-preresnet32-bn-cosine": (
        "SVAG and SGD, cosine schedule",
        PRERESNET32_BN,
        {"schedule": "cosine"},
    ),
    "svag-preresnet32-bn-triangle": (
        "SVAG and SGD, triangles with peaks eta and eta / 2",
        PRERESNET32_BN,
        {"schedule": "triangle"},
    ),
    "lsr-preresnet32-bn": ("linear scaling, B swept", PRERESNET32_BN, LSR),
    "lsr-preresnet32-gn": (
        "linear scaling, group norm",
        PRERESNET32_GN,
        LSR_GN,
    ),
    "lsr-preresnet32-wide": ("linear scaling, 4x wider", PRERESNET32_WIDE, LSR),
    "lsr-vgg19-gn": ("linear scaling, VGG, group norm", VGG19_GN, LSR_GN),
    "lsr-resnet32-bn": (
        "linear scaling, ResNet, not scale-invariant",
        RESNET32_BN,
        LSR,
    ),
    "ngd-preresnet32-gn": (
        "noisy gradient descent and SGD, B = 500, eta = 3.2",
        PRERESNET32_GN,
        NGD,
    ),
}

# Suffix: (what it is, the data set).
DATASETS = {
    "": ("CIFAR-10", "cifar10"),
    "-cifar100": ("CIFAR-100", "cifar100"),
    "-svhn": ("SVHN", "svhn_cropped"),
}


# Name: (study, suffix).
RECIPES = {
    study + suffix: (study, suffix) for suffix in DATASETS for study in STUDIES
}


def get_config(name=""):
    if name == "list":
        width = max(map(len, RECIPES))
        for known, (study, suffix) in RECIPES.items():
            what, dataset = STUDIES[study][0], DATASETS[suffix][0]
            print(f"{known:<{width}}  {what}, {dataset}")
        sys.exit()
    if name not in RECIPES:
        sys.exit(
            "train.py: --config=configs/paper.py:NAME needs one of the names "
            f"{', '.join(STUDIES)}, each also with "
            f"{' or '.join(filter(None, DATASETS))} at its end, got {name!r}."
        )
    study, suffix = RECIPES[name]
    _, model, changes = STUDIES[study]
    config = cifar10.get_config()
    config.dataset = DATASETS[suffix][1]
    config.model.update(model)
    config.update(changes)
    return config
