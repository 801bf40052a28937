"""Growing batches and branch tests against whole runs, as markdown tables.

    PYTHONPATH=. python benchmarks/batch_growth.py growth digits sgd
    PYTHONPATH=. python benchmarks/batch_growth.py growth perceptron adam \
        --data_dir=DATA
    PYTHONPATH=. python benchmarks/batch_growth.py branches digits sgd

`growth`: the same epochs, under a cosine decay of the learning rate, at a
fixed batch and with batches that grow: as the check allows (`measured`), where
the decay halves the rate (`seesaw`), doubled at equal distances (`schedule`),
and at the beginning of every epoch (`forced`), the latter three without a
check. Steps are those of the optimizer; "to the loss" those to the first epoch
at whose end the loss is at most the largest of the least ones of the fixed
runs.

`branches`: whole runs at κB from the start, by the scaling rule, beside the
bound, the prediction (of SGD: from the last third of whole runs of SVAG at B
with ell 1 and 2) and a `branch_test` at a third of the run at B. "Share" is
what the test costs of the whole runs in its place, in examples, its probes
among them.

`orders`: SVAG with ell 1 and 2 in halves, whose rows have one order for all
epochs, or a new one in each (for `sgd`).

Digits and perceptron are scale-invariant networks of two hidden layers of 64 on
the digits of scikit-learn and 10,000 images of CIFAR-10, the third network is a
PreResNet-8 of base width 8 with group normalization on 2,000 of them.
"""

import argparse
import itertools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_svag
from experiments import datasets
from keras_svag import applications
from keras_svag.scaling import (
    EquilibriumStatistics,
    predict_closeness,
    scale_optimizer,
)

# Batch size, largest one, epochs; learning rate and weight decay by optimizer.
PROBLEMS = {
    "digits": (16, 512, 30, {"sgd": (0.2, 2e-2), "adam": (2e-3, 0.5)}),
    "perceptron": (16, 1024, 12, {"sgd": (0.2, 5e-3), "adam": (1e-3, 0.5)}),
    "preresnet8": (16, 256, 6, {"sgd": (0.1, 5e-3), "adam": (1e-3, 0.5)}),
}
EXAMPLES = {"digits": None, "perceptron": 10_000, "preresnet8": 2000}
TESTED = 2000


def data_of(problem, data_dir):
    found = datasets.load(
        "digits" if problem == "digits" else "cifar10", data_dir
    )

    def standard(images):
        images = images / found.kind.max_value
        return ((images - found.mean) / found.std).astype("float32")

    rows = slice(EXAMPLES[problem])
    return (
        (standard(found.train_images[rows]), found.train_labels[rows]),
        (standard(found.test_images[:TESTED]), found.test_labels[:TESTED]),
    )


def compiled(problem, optimizer, x, seed, kappa=1, decayed=False):
    keras.utils.set_random_seed(seed)
    shape = x.shape[1:]
    if problem == "preresnet8":
        model = applications.PreResNet(
            8, shape, 10, normalization="group", base_width=8, seed=seed
        )
    else:
        model = applications.ScaleInvariantMLP(
            shape, 10, hidden_units=(64, 64), seed=seed
        )
    rate, decay = PROBLEMS[problem][3][optimizer]
    if decayed:
        batch, _, epochs, _ = PROBLEMS[problem]
        steps = epochs * -(-len(x) // batch)
        rate = keras.optimizers.schedules.CosineDecay(rate, steps, alpha=0.01)
    if optimizer == "sgd":
        made = keras.optimizers.SGD(rate, weight_decay=decay)
    else:
        made = keras.optimizers.Adam(rate, beta_2=0.99, weight_decay=decay)
    model.compile(
        scale_optimizer(made, kappa),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def modes(epochs, batch, largest):
    """The growth of each way of training."""
    doublings = int(np.log2(largest // batch))
    places = [
        round(epochs * k / (doublings + 1)) for k in range(1, doublings + 1)
    ]
    return {
        "fixed": {},
        "measured": "measured",
        "seesaw": "seesaw",
        "schedule": {e: batch * 2 ** (k + 1) for k, e in enumerate(places)},
        "forced": {e + 1: batch * 2 ** (e + 1) for e in range(doublings)},
    }


def growth(options):
    batch, largest, epochs, _ = PROBLEMS[options.problem]
    if options.optimizer == "adam":
        # The rule ends below κ = 1/(1 - β₁) = 10.
        largest = 8 * batch
    train, test = data_of(options.problem, options.data_dir)
    print(
        "| batches | last batch | steps | training loss | test loss | accuracy "
        "| steps to the training loss | to the test loss "
        "| epochs at each batch, by seed |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---|")
    targets = None
    for name, mode in modes(epochs, batch, largest).items():
        runs = []
        for seed in range(options.seeds):
            model = compiled(
                options.problem, options.optimizer, train[0], seed, decayed=True
            )
            check = None
            if mode == "measured":
                check = keras_svag.ScalingRuleCheck(every=4, verbose=0)
            history = keras_svag.fit_growing(
                model,
                *train,
                batch_size=batch,
                max_batch_size=largest,
                epochs=epochs,
                mode=mode,
                check=check,
                on_heuristic=options.on_heuristic,
                validation_data=test,
                verbose=0,
            ).history
            sizes = np.array(history["batch_size"])
            history["steps"] = np.cumsum(-(-len(train[0]) // sizes))
            runs.append(history)
        if targets is None:
            targets = {
                key: max(min(run[key]) for run in runs)
                for key in ("loss", "val_loss")
            }
        print_runs(name, runs, targets)


def with_error(values, form):
    values = np.array(values, float)
    error = values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():{form}} ± {error:{form}}"


def steps_to(runs, key, target):
    reached = []
    for run in runs:
        below = np.flatnonzero(np.array(run[key]) <= target)
        if not len(below):
            count = sum(min(run[key]) <= target for run in runs)
            return f"reached by {count} of {len(runs)}"
        reached.append(run["steps"][below[0]])
    return with_error(reached, ",.0f")


def print_runs(name, runs, targets):
    last = sorted({run["batch_size"][-1] for run in runs})
    stages = "; ".join(
        " ".join(
            f"{size}×{run['batch_size'].count(size)}"
            for size in sorted({*run["batch_size"]})
        )
        for run in runs
    )
    cells = [
        name,
        " to ".join(map(str, [last[0], last[-1]][: len(last)])),
        with_error([run["steps"][-1] for run in runs], ",.0f"),
        with_error([run["loss"][-1] for run in runs], ".4f"),
        with_error([run["val_loss"][-1] for run in runs], ".4f"),
        with_error([100 * run["val_accuracy"][-1] for run in runs], ".2f"),
        *(steps_to(runs, key, target) for key, target in targets.items()),
        stages,
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def at_rest(options, train, ell, has_one_order=False):
    """R, G and N of SVAG in the last third of whole runs at B.

    The rows have a new order in every epoch, or one for all epochs.
    """
    batch, _, epochs, rates = PROBLEMS[options.problem]
    rate, decay = rates["sgd"]
    runs = []
    for seed in range(options.seeds):
        model = compiled(options.problem, "sgd", train[0], seed)
        svag = keras_svag.SVAGModel(model)
        svag.compile(
            keras_svag.SVAG(
                rate, ell=ell, pairing="halves", weight_decay=decay
            ),
            model.loss,
        )
        monitor = keras_svag.GradientNoiseMonitor(every=1)
        rng = np.random.default_rng(seed)
        for _ in range(ell * epochs):
            if has_one_order:
                # As Keras shuffles arrays after `set_random_seed`.
                rng = np.random.default_rng(seed)
            order = rng.permutation(len(train[0]))
            svag.fit(
                *(part[order] for part in train),
                batch_size=batch,
                shuffle=False,
                callbacks=[monitor],
                verbose=0,
            )
        series = monitor.series.window(ell * epochs // 3)
        estimate = series.estimate(batch)
        runs.append(
            (
                series["weight_sq_norm"].mean(),
                estimate.grad_sq_norm,
                estimate.noise_trace,
            )
        )
    errors = np.std(runs, axis=0, ddof=1) / np.sqrt(len(runs))
    return EquilibriumStatistics(
        *np.mean(runs, axis=0), *errors, count=len(runs)
    )


def orders(options):
    train, _ = data_of(options.problem, options.data_dir)
    print("| order of the rows | ell | R | G | N |")
    print("|---|---:|---:|---:|---:|")
    for has_one, ell in itertools.product((True, False), (1, 2)):
        run = at_rest(options, train, ell, has_one)
        cells = (
            f"{getattr(run, name):.3g} ± {getattr(run, f'{name}_se'):.2g}"
            for name in ("weight_sq_norm", "grad_sq_norm", "noise_trace")
        )
        order = "one" if has_one else "a new one in every epoch"
        print(f"| {order} | {ell} | {' | '.join(cells)} |", flush=True)


def predicted(prediction, kappa):
    if prediction is None:
        return "–"
    value, low, high = prediction.closeness(kappa)
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


def branches(options):
    batch, _, epochs, _ = PROBLEMS[options.problem]
    train, test = data_of(options.problem, options.data_dir)
    examples, num_batches = 2 * len(train[0]), 50
    model = compiled(options.problem, options.optimizer, train[0], 0)
    check = keras_svag.ScalingRuleCheck(every=2, verbose=0)
    model.fit(
        *train,
        batch_size=batch,
        epochs=epochs // 3,
        callbacks=[check],
        verbose=0,
    )
    finals = {}
    for kappa in (1, *options.kappas):
        runs = []
        for seed in range(options.seeds):
            run = compiled(
                options.problem, options.optimizer, train[0], seed, kappa
            )
            run.fit(
                *train,
                batch_size=round(batch * kappa),
                epochs=epochs,
                verbose=0,
            )
            runs.append(run.evaluate(*test, verbose=0)[0])
        finals[kappa] = np.array(runs)
    prediction = None
    if options.optimizer == "sgd":
        prediction = predict_closeness(
            {ell: at_rest(options, train, ell) for ell in (1, 2)}
        )
    print(
        "| κ | batch | bound | C at least | C predicted | C seen "
        "| branch: loss | difference | verdict | whole runs: difference "
        "| share |"
    )
    print("|---:|---:|---|---|---|---|---:|---|---|---|---:|")
    report = check.report
    for kappa in options.kappas:
        report = report.branch_test(
            model,
            train,
            kappa,
            batch_size=batch,
            examples=examples,
            validation_data=test,
            seeds=options.seeds,
            num_batches=num_batches,
            tolerance=options.tolerance,
            verbose=0,
        )
    cost = 2 * (examples + 2 * num_batches * batch)
    for test_of, kappa in zip(
        sorted(report.branches, key=lambda t: t.kappa),
        sorted(options.kappas),
        strict=True,
    ):
        bound = report.verdict.scaled_by(kappa)
        low, _, high = bound.min_closeness
        found = test_of.closeness
        value, lower, upper = test_of.difference
        there = finals[kappa] - finals[1].mean()
        error = np.sqrt(
            sum(v.var(ddof=1) / len(v) for v in (finals[kappa], finals[1]))
        )
        print(
            f"| ×{kappa:g} | {round(batch * kappa)} | {bound.verdict} "
            f"| {low:.3g} to {high:.3g} "
            f"| {predicted(prediction, kappa)} "
            f"| {found.value:.3g} [{found.low:.3g}, {found.high:.3g}] "
            f"| {test_of.loss:.3f} | {value:+.4f} [{lower:.4f}, {upper:.4f}] "
            f"| {test_of.verdict} | {there.mean():+.4f} ± {error:.4f} "
            f"| {cost / (2 * epochs * len(train[0])):.0%} |",
            flush=True,
        )


STUDIES = {"growth": growth, "branches": branches, "orders": orders}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=[*STUDIES])
    parser.add_argument("problem", choices=[*PROBLEMS])
    parser.add_argument("optimizer", choices=["sgd", "adam"])
    parser.add_argument("--data_dir")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tolerance", type=float, default=0.05)
    parser.add_argument(
        "--kappas", type=float, nargs="*", default=[0.5, 2, 4, 8]
    )
    parser.add_argument(
        "--on_heuristic", default="grow", choices=["stay", "grow"]
    )
    options = parser.parse_args()
    STUDIES[options.study](options)


if __name__ == "__main__":
    main()
