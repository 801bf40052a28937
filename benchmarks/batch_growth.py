"""Growing batches and branch tests against whole runs (docs/growing.md).

    PYTHONPATH=. python benchmarks/batch_growth.py growth digits sgd
    PYTHONPATH=. python benchmarks/batch_growth.py growth perceptron adam \
        --data_dir=DATA
    PYTHONPATH=. python benchmarks/batch_growth.py branches digits sgd

`branches` runs at κB from the start, beside a `branch_test` at a third of the
run at B; "share" is what the test costs of the two whole runs in its place, in
examples, its probes among them.

Digits and perceptron are scale-invariant networks of two hidden layers of 64 on
the digits of scikit-learn and 10,000 images of CIFAR-10, the third network is a
PreResNet-8 of base width 8 with group normalization on 2,000 of them.
"""

from typing import NamedTuple

import keras
import numpy as np
from sources import equilibrium
from table import command_line, mean_of, plus_minus, print_header, print_row

import keras_svag
from experiments import datasets
from keras_svag import applications
from keras_svag.scaling import predict_closeness, scale_optimizer


class Problem(NamedTuple):
    """A network on a data set; learning rates are beside weight decays."""

    dataset: str
    examples: int | None
    batch: int
    largest: int
    epochs: int
    sgd: tuple[float, float]
    adam: tuple[float, float]


PROBLEMS = {
    "digits": Problem(
        "digits", None, 16, 512, 30, sgd=(0.2, 2e-2), adam=(2e-3, 0.5)
    ),
    "perceptron": Problem(
        "cifar10", 10_000, 16, 1024, 12, sgd=(0.2, 5e-3), adam=(1e-3, 0.5)
    ),
    "preresnet8": Problem(
        "cifar10", 2000, 16, 256, 6, sgd=(0.1, 5e-3), adam=(1e-3, 0.5)
    ),
}


def data_of(problem, data_dir):
    found = datasets.load(problem.dataset, data_dir or None)

    def part(images, labels, rows):
        images = images[:rows] / found.kind.max_value
        images = (images - found.mean) / found.std
        return images.astype("float32"), labels[:rows]

    return (
        part(found.train_images, found.train_labels, problem.examples),
        part(found.test_images, found.test_labels, 2000),
    )


def compiled(options, x, seed, kappa=1, decayed=False):
    keras.utils.set_random_seed(seed)
    problem, shape = options.problem, x.shape[1:]
    if problem is PROBLEMS["preresnet8"]:
        model = applications.PreResNet(
            8, shape, 10, normalization="group", base_width=8, seed=seed
        )
    else:
        model = applications.ScaleInvariantMLP(
            shape, 10, hidden_units=(64, 64), seed=seed
        )
    rate, decay = getattr(problem, options.optimizer)
    if decayed:
        steps = problem.epochs * -(-len(x) // problem.batch)
        rate = keras.optimizers.schedules.CosineDecay(rate, steps, alpha=0.01)
    if options.optimizer == "sgd":
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
    sizes = [batch * 2**k for k in range(1, doublings + 1)]
    places = [
        round(epochs * k / (doublings + 1)) for k in range(1, doublings + 1)
    ]
    return {
        "fixed": {},
        "measured": "measured",
        "seesaw": "seesaw",
        "schedule": dict(zip(places, sizes, strict=True)),
        "forced": dict(enumerate(sizes, 1)),
    }


def growth(options, train, test):
    problem = options.problem
    # Adam's rule ends below κ = 1/(1 - β₁) = 10.
    largest = (
        problem.largest if options.optimizer == "sgd" else 8 * problem.batch
    )
    print_header(
        "batches | last batch | steps | training loss | test loss | accuracy",
        "epochs at each batch, by seed",
    )
    for name, mode in modes(problem.epochs, problem.batch, largest).items():
        runs = []
        for seed in range(options.seeds):
            check = keras_svag.ScalingRuleCheck(every=4, verbose=0)
            history = keras_svag.fit_growing(
                compiled(options, train[0], seed, decayed=True),
                *train,
                batch_size=problem.batch,
                max_batch_size=largest,
                epochs=problem.epochs,
                mode=mode,
                check=check if mode == "measured" else None,
                on_heuristic="grow",
                validation_data=test,
                verbose=0,
            ).history
            sizes = np.array(history["batch_size"])
            history["steps"] = np.sum(-(-len(train[0]) // sizes))
            runs.append(history)
        print_runs(name, runs)


def print_runs(name, runs):
    last = sorted({run["batch_size"][-1] for run in runs})
    stages = (
        " ".join(
            f"{size}×{run['batch_size'].count(size)}"
            for size in sorted({*run["batch_size"]})
        )
        for run in runs
    )
    print_row(
        name,
        " to ".join(map(str, [last[0], last[-1]][: len(last)])),
        mean_of([run["steps"] for run in runs], ",.0f"),
        mean_of([run["loss"][-1] for run in runs], ".4f"),
        mean_of([run["val_loss"][-1] for run in runs], ".4f"),
        mean_of([100 * run["val_accuracy"][-1] for run in runs], ".2f"),
        "; ".join(stages),
    )


def at_rest(options, train, ell):
    """R, G and N of SVAG in the last third of whole runs at B."""
    problem = options.problem
    rate, decay = problem.sgd
    runs = []
    for seed in range(options.seeds):
        model = compiled(options, train[0], seed)
        svag = keras_svag.SVAGModel(model)
        svag.compile(
            keras_svag.SVAG(
                rate, ell=ell, pairing="halves", weight_decay=decay
            ),
            model.loss,
        )
        monitor = keras_svag.GradientNoiseMonitor(every=1)
        rng = np.random.default_rng(seed)
        for _ in range(ell * problem.epochs):
            # Keras would shuffle all epochs alike after `set_random_seed`.
            order = rng.permutation(len(train[0]))
            svag.fit(
                *(part[order] for part in train),
                batch_size=problem.batch,
                shuffle=False,
                callbacks=[monitor],
                verbose=0,
            )
        series = monitor.series.window(ell * problem.epochs // 3)
        estimate = series.estimate(problem.batch)
        size = series["weight_sq_norm"].mean()
        runs.append((size, estimate.grad_sq_norm, estimate.noise_trace))
    return equilibrium(runs)


def interval(value, low, high):
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


def whole_runs(options, train, test, kappa):
    """The test loss of each seed at κB from the start."""
    problem, losses = options.problem, []
    for seed in range(options.seeds):
        run = compiled(options, train[0], seed, kappa)
        run.fit(
            *train,
            batch_size=round(problem.batch * kappa),
            epochs=problem.epochs,
            verbose=0,
        )
        losses.append(run.evaluate(*test, verbose=0)[0])
    return np.array(losses)


def branches(options, train, test):
    problem = options.problem
    examples, num_batches = 2 * len(train[0]), 50
    model = compiled(options, train[0], 0)
    check = keras_svag.ScalingRuleCheck(every=2, verbose=0)
    model.fit(
        *train,
        batch_size=problem.batch,
        epochs=problem.epochs // 3,
        callbacks=[check],
        verbose=0,
    )
    base = whole_runs(options, train, test, 1)
    prediction = None
    if options.optimizer == "sgd":
        prediction = predict_closeness(
            {ell: at_rest(options, train, ell) for ell in (1, 2)}
        )
    print_header(
        "κ | batch | bound | C at least | C predicted | C seen",
        "branch: loss | difference | verdict | whole runs: difference | share",
    )
    cost = 2 * (examples + 2 * num_batches * problem.batch)
    share = cost / (2 * problem.epochs * len(train[0]))
    report = check.report
    for kappa in options.kappas:
        report = report.branch_test(
            model,
            train,
            kappa,
            batch_size=problem.batch,
            examples=examples,
            validation_data=test,
            seeds=options.seeds,
            num_batches=num_batches,
            tolerance=0.05,
            verbose=0,
        )
        (test_of,) = (t for t in report.branches if t.kappa == kappa)
        bound = report.verdict.scaled_by(kappa)
        low, _, high = bound.min_closeness
        found = test_of.closeness
        value, lower, upper = test_of.difference
        losses = whole_runs(options, train, test, kappa)
        error = np.sqrt((losses.var(ddof=1) + base.var(ddof=1)) / len(base))
        print_row(
            f"×{kappa:g}",
            round(problem.batch * kappa),
            bound.verdict,
            f"{low:.3g} to {high:.3g}",
            interval(*prediction.closeness(kappa)) if prediction else "–",
            interval(found.value, found.low, found.high),
            f"{test_of.loss:.3f}",
            f"{value:+.4f} [{lower:.4f}, {upper:.4f}]",
            test_of.verdict,
            plus_minus(losses.mean() - base.mean(), error, "+.4f", ".4f"),
            f"{share:.0%}",
        )


STUDIES = {"growth": growth, "branches": branches}


def main():
    options = command_line(
        __doc__,
        study=STUDIES,
        problem=PROBLEMS,
        optimizer={"sgd": "", "adam": ""},
        data_dir="",
        seeds=3,
        kappas=[0.5, 2.0, 4.0, 8.0],
    )
    options.problem = PROBLEMS[options.problem]
    STUDIES[options.study](options, *data_of(options.problem, options.data_dir))


if __name__ == "__main__":
    main()
