"""How far a training step is from the limits of the machine.

    python benchmarks/machine.py [--workloads bn gn wide] [--rounds 5]

The limits are measured: the rate of a matrix product in TensorFlow, and the
bandwidth of memory when one large array is scaled into another. A step's
operations are those of its convolutions and matrix products, three times
those of a forward pass; its bytes are those of the layers' outputs, each
written and read once forward, and once more, with its gradient, backward. No
step can be faster than either limit allows.
"""

import math
import statistics
import time
import warnings

import keras
import tensorflow as tf
from side_by_side import alternating_rounds, print_header, print_row
from workloads import WORKLOADS, cross_entropy, make_parser, seconds_per_step

import keras_svag

FLOAT_BYTES = 4


def forward_operations(model):
    """Multiplications and additions of a forward pass of one example."""
    operations = 0
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            positions = math.prod(layer.output.shape[1:-1])
            operations += 2 * layer.kernel.shape.num_elements() * positions
    return operations


def activation_bytes(model):
    """Bytes of the outputs of all layers for one example, in float32."""
    return FLOAT_BYTES * sum(
        math.prod(layer.output.shape[1:]) for layer in model.layers
    )


def rate(function, amount, repeats=5):
    """`amount` per second of the fastest of some calls."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return amount / min(seconds[1:])


def product_rate(size=3072):
    a = tf.random.normal((size, size))
    product = tf.function(lambda: tf.reduce_max(a @ a))
    return rate(lambda: product().numpy(), 2 * size**3)


def memory_bandwidth(elements=2**26):
    a = tf.Variable(tf.ones(elements))
    scale = tf.function(lambda: a.assign(2.0 * a))
    # It is read and written, and the line that is written is read before.
    return rate(scale, 3 * FLOAT_BYTES * elements)


def main():
    arguments = make_parser(__doc__, ("bn", "gn", "wide")).parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in arguments.workloads:
        workload = WORKLOADS[name]
        network = workload.make()
        images = 2 * workload.batch_size
        operations = 3 * images * forward_operations(network)
        moved = 4 * images * activation_bytes(network)
        model = keras_svag.SVAGModel(network)
        model.compile(keras_svag.SVAG(0.1, ell=4), loss=cross_entropy())
        batches = workload.batches(images)
        measured = alternating_rounds(
            {
                "operations": product_rate,
                "bytes": memory_bandwidth,
                "step": lambda m=model, b=batches, w=workload: seconds_per_step(
                    m, b, w.steps
                ),
            },
            arguments.rounds,
        )
        medians = {k: statistics.median(v) for k, v in measured.items()}
        computing = operations / medians["operations"]
        moving = moved / medians["bytes"]
        rows.append(
            (
                workload.title,
                f"{operations / images / 1e6:,.0f}",
                f"{moved / images / 1e6:.1f}",
                f"{medians['operations'] / 1e9:.0f}",
                f"{medians['bytes'] / 1e9:.1f}",
                f"{1000 * computing:.0f}",
                f"{1000 * moving:.0f}",
                f"{1000 * medians['step']:.0f}",
                f"{max(computing, moving) / medians['step']:.0%}",
            )
        )
        keras.backend.clear_session()
    print_header(
        "network",
        "10⁶ operations/image",
        "MB/image",
        "10⁹ operations/s",
        "GB/s",
        "computing, ms",
        "moving, ms",
        "step, ms",
        "larger limit / step",
    )
    for row in rows:
        print_row(*row)


if __name__ == "__main__":
    main()
