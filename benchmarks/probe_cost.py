"""What measuring G and N costs, against a probe of 200 extra batches.

    python benchmarks/probe_cost.py [--workloads gn mlp] [--rounds 5]

Measuring in a training step: an `SVAGModel` with `measure_noise` against one
without, and what is added to the step (moments of the pair, their metric, the
squared norm of the weights, their logs) as a function of its own, which is
less at the mercy of noise than the difference of two steps. The probe:
`measure_gradient_noise`, at B. An epoch is n/B steps.
"""

import statistics
import time
import warnings

import keras
import numpy as np
import tensorflow as tf
from side_by_side import alternating_rounds, print_header, print_row, ratios
from workloads import WORKLOADS, cross_entropy, make_parser, seconds_per_step

import keras_svag
from keras_svag.noise.pairs import pair_moments, squared_norm

NUM_EXAMPLES = {"bn": 50_000, "gn": 50_000, "wide": 50_000, "mlp": 1_437}
PROBE_BATCHES = 200
PROBED = 10


def compiled(workload, **options):
    model = keras_svag.SVAGModel(workload.make(), **options)
    model.compile(keras_svag.SVAG(0.1, ell=4), loss=cross_entropy())
    return model


def measuring(variables, batch_size):
    """The function that measures a pair, given some gradients."""
    metric = keras_svag.GradientNoise(batch_size)
    norm = keras.metrics.Mean()
    pairs = [
        [tf.Variable(tf.random.normal(v.shape)) for v in variables]
        for _ in range(2)
    ]

    @tf.function
    def measure():
        metric.update_state(*pair_moments(*pairs))
        norm.update_state(squared_norm(variables))
        return metric.result(), norm.result()

    return measure


def seconds_of_calls(function, calls=200):
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def seconds_of_probed_batch(model, data, batch_size):
    start = time.perf_counter()
    keras_svag.measure_gradient_noise(
        model, data, batch_size, PROBED, seed=0, verbose=0
    )
    return (time.perf_counter() - start) / PROBED


def main():
    arguments = make_parser(__doc__, ("gn", "mlp")).parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in arguments.workloads:
        workload = WORKLOADS[name]
        batch_size = workload.batch_size
        batches = workload.batches(2 * batch_size)
        measured = compiled(workload)
        unmeasured = compiled(workload, measure_noise=False)
        measure = measuring(measured.trainable_variables, batch_size)
        rng = np.random.default_rng(0)
        examples = (
            rng.normal(size=(2_000, *workload.input_shape)).astype("float32"),
            rng.integers(0, 10, 2_000),
        )
        seconds = alternating_rounds(
            {
                "measured": lambda m=measured, b=batches, w=workload: (
                    seconds_per_step(m, b, w.steps)
                ),
                "unmeasured": lambda m=unmeasured, b=batches, w=workload: (
                    seconds_per_step(m, b, w.steps)
                ),
                "measuring": lambda f=measure: seconds_of_calls(f),
                "probe": lambda m=measured, d=examples, w=workload: (
                    seconds_of_probed_batch(m, d, w.batch_size)
                ),
            },
            arguments.rounds,
        )
        medians = {k: statistics.median(v) for k, v in seconds.items()}
        each = ratios(seconds["measured"], seconds["unmeasured"])
        epoch = NUM_EXAMPLES[name] // batch_size * medians["measuring"]
        probe = PROBE_BATCHES * medians["probe"]
        rows.append(
            (
                workload.title,
                f"{statistics.median(each):.3f} "
                f"({min(each):.3f} to {max(each):.3f})",
                f"{1000 * medians['measuring']:.2f}",
                f"{medians['measuring'] / medians['unmeasured']:.2%}",
                f"{epoch:.2f}",
                f"{probe:.1f}",
                f"{probe / epoch:.0f}",
            )
        )
        keras.backend.clear_session()
    print_header(
        "network",
        "step measured / not",
        "measuring, ms",
        "of a step",
        "an epoch, s",
        f"probe of {PROBE_BATCHES}, s",
        "probe / epoch",
    )
    for row in rows:
        print_row(*row)


if __name__ == "__main__":
    main()
