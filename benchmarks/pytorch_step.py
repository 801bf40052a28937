"""Images per second of an SVAG step, against the same step in PyTorch.

    python -m venv /tmp/pytorch
    /tmp/pytorch/bin/pip install numpy torch==2.13.0
    python benchmarks/pytorch_step.py /tmp/pytorch/bin/python
        [--workloads bn gn wide] [--policies float32 mixed_bfloat16]

The network in PyTorch (channels-last, no metrics) starts from the weights of
ours; before anything is timed their outputs are compared. Ours runs through
`fit`, with the noise metrics and without.
"""

import os
import statistics
import subprocess
import tempfile
import warnings

import keras
import numpy as np
from side_by_side import (
    alternating_rounds,
    print_header,
    print_row,
    ratio_cells,
)
from workloads import WORKLOADS, cross_entropy, make_parser, seconds_per_step

import keras_svag

NETWORKS = ("bn", "gn", "wide")
WORKER = os.path.join(os.path.dirname(__file__), "pytorch_network.py")


class PyTorchStep:
    """The step in a process of its own, that waits between its turns.

    Attributes:
        version: PyTorch's.
        num_parameters: trainable ones, and the head's.
        logits: its outputs for every second row of the workload's batch.
    """

    def __init__(self, python, weights, batch, normalization, policy):
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "start.npz")
            np.savez(file, **batch, **weights)
            options = [] if policy == "float32" else ["--bfloat16"]
            self._process = subprocess.Popen(
                [python, WORKER, file, normalization, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self.version = self._read()
            self.num_parameters = int(self._read())
            self._read()
            self.logits = np.load(file + ".logits.npy")

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("PyTorch's process ended.")
        return line.strip()

    def seconds(self, steps):
        """Seconds of a step, over `steps` of them."""
        print(steps, file=self._process.stdin, flush=True)
        return float(self._read())

    def close(self):
        print(0, file=self._process.stdin, flush=True)
        self._process.wait()


def weights_of(model):
    """The kernels by their layers' names, and the head's bias."""
    weights = {
        layer.name: layer.get_weights()[0]
        for layer in model.layers
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))
    }
    weights["head_bias"] = model.get_layer("head").get_weights()[1]
    return weights


def check_same_function(step, model, x, weights):
    """Ends the program unless PyTorch has the network of `model`."""
    num_parameters = sum(w.size for w in weights.values())
    logits = model(x, training=True).numpy()
    difference = np.abs(step.logits - logits).max() / np.abs(logits).max()
    print(
        f"PyTorch {step.version}: {step.num_parameters:,} parameters, logits "
        f"within {difference:.1g} of ours\n"
    )
    if step.num_parameters != num_parameters or difference > 1e-4:
        raise SystemExit(f"Ours has {num_parameters:,} parameters.")


def contenders(workload, policy, python, normalization):
    """`{name: function}` that give the seconds of a step, and a cleanup."""
    rows = 2 * workload.batch_size
    batches = workload.batches(rows)
    x, y = next(batches.as_numpy_iterator())
    network = workload.make()
    weights = weights_of(network)
    pytorch = PyTorchStep(
        python, weights, {"x": x, "y": y}, normalization, policy
    )
    if policy == "float32":
        check_same_function(pytorch, network, x[0::2], weights)

    def ours(*callbacks):
        model = keras_svag.SVAGModel(workload.make())
        model.compile(
            optimizer=keras_svag.SVAG(0.1, ell=4), loss=cross_entropy()
        )
        return lambda: seconds_per_step(
            model, batches, workload.steps, callbacks
        )

    return {
        "pytorch": lambda: pytorch.seconds(workload.steps),
        "unmeasured": ours(),
        "measured": ours(keras_svag.GradientNoiseMonitor()),
    }, pytorch.close


def main():
    parser = make_parser(__doc__, NETWORKS, NETWORKS)
    parser.add_argument("python", help="a Python that has PyTorch")
    parser.add_argument("--policies", nargs="+", default=["float32"])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for policy in arguments.policies:
        keras.config.set_dtype_policy(policy)
        for name in arguments.workloads:
            workload = WORKLOADS[name]
            run, close = contenders(
                workload,
                policy,
                arguments.python,
                "group" if name == "gn" else "batch",
            )
            seconds = alternating_rounds(run, arguments.rounds)
            close()
            keras.backend.clear_session()
            pytorch = seconds["pytorch"]
            for title, times in (
                ("not observed", seconds["unmeasured"]),
                ("observed", seconds["measured"]),
            ):
                rows.append(
                    (
                        f"{workload.title}, {policy}, {title}",
                        images_per_second(workload, pytorch),
                        images_per_second(workload, times),
                        ratio_cells(pytorch, times),
                    )
                )
    print_header(
        "network, ours with", "PyTorch, images/s", "ours", "ratio", "range"
    )
    for row in rows:
        print_row(*row)


def images_per_second(workload, seconds):
    return f"{2 * workload.batch_size / statistics.median(seconds):.0f}"


if __name__ == "__main__":
    main()
