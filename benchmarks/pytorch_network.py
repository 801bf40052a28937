"""PreResNet and its SVAG step in PyTorch, run by benchmarks/pytorch_step.py.

It runs in a Python that has PyTorch and needs nothing else but NumPy: weights
and a batch come in a file, commands come by standard input, a line each.
"""

import argparse
import contextlib
import time

import numpy as np
import torch
from torch.nn import functional


class Convolution(torch.nn.Module):
    """A convolution without bias that pads as TensorFlow's "same" does."""

    def __init__(self, kernel, stride):
        super().__init__()
        # Keras: (height, width, in, out); PyTorch: (out, in, height, width).
        kernel = torch.from_numpy(kernel).permute(3, 2, 0, 1)
        self.kernel = torch.nn.Parameter(
            kernel.contiguous(memory_format=torch.channels_last)
        )
        self.stride = stride
        self.size = kernel.shape[2]

    def forward(self, x):
        if self.stride == 1:
            return functional.conv2d(x, self.kernel, padding=self.size // 2)
        if self.size > 1:
            # An even image is padded at its end only.
            x = functional.pad(x, (0, self.size - 2, 0, self.size - 2))
        return functional.conv2d(x, self.kernel, stride=self.stride)


class Norm(torch.nn.Module):
    """Batch or group normalization without scale and offset."""

    def __init__(self, normalization, channels):
        super().__init__()
        self.normalization = normalization
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x):
        if self.normalization == "group":
            return functional.group_norm(x, 8, eps=0.0)
        return functional.batch_norm(
            x, self.mean, self.variance, training=True, momentum=0.1, eps=1e-15
        )


class Block(torch.nn.Module):
    def __init__(self, weights, name, normalization, stride):
        super().__init__()
        first, second = weights[f"{name}_conv1"], weights[f"{name}_conv2"]
        shortcut = weights.get(f"{name}_shortcut")
        self.norm1 = Norm(normalization, first.shape[2])
        self.conv1 = Convolution(first, stride)
        self.norm2 = Norm(normalization, second.shape[2])
        self.conv2 = Convolution(second, 1)
        self.shortcut = (
            None if shortcut is None else Convolution(shortcut, stride)
        )

    def forward(self, x):
        normed = self.norm1(x)
        shortcut = x if self.shortcut is None else self.shortcut(normed)
        y = self.conv1(functional.relu(normed))
        return shortcut + self.conv2(functional.relu(self.norm2(y)))


class PreResNet(torch.nn.Module):
    """The network of `keras_svag.applications.PreResNet`, with its weights."""

    def __init__(self, weights, normalization):
        super().__init__()
        self.stem = Convolution(weights["stem"], 1)
        blocks = sum(name.endswith("_conv1") for name in weights) // 3
        self.blocks = torch.nn.Sequential(
            *(
                Block(
                    weights,
                    f"stage{stage}_block{block}",
                    normalization,
                    2 if stage > 1 and block == 1 else 1,
                )
                for stage in (1, 2, 3)
                for block in range(1, blocks + 1)
            )
        )
        self.norm = Norm(normalization, weights["head"].shape[0])
        self.head = torch.nn.Linear(*weights["head"].shape)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weights["head"].T))
            self.head.bias.copy_(torch.from_numpy(weights["head_bias"]))
        self.head.requires_grad_(False)

    def forward(self, x):
        x = self.norm(self.blocks(self.stem(x)))
        return self.head(x.mean((2, 3)))


class SVAGStep:
    """x <- x - learning_rate / ell (w1 g1 + w2 g2), pairs independent."""

    def __init__(self, network, bfloat16, learning_rate=0.1, ell=4):
        self.network = network
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        root = (2 * ell - 1) ** 0.5
        self.weights = (1 + root) / 2, (1 - root) / 2
        self.step_size = learning_rate / ell
        self.bfloat16 = bfloat16

    def gradients(self, x, y):
        with (
            torch.autocast("cpu", torch.bfloat16)
            if self.bfloat16
            else contextlib.nullcontext()
        ):
            loss = functional.cross_entropy(self.network(x), y)
        return torch.autograd.grad(loss, self.parameters)

    def __call__(self, x, y):
        first = self.gradients(x[0::2], y[0::2])
        second = self.gradients(x[1::2], y[1::2])
        w1, w2 = self.weights
        with torch.no_grad():
            mixed = torch._foreach_mul(first, w1)
            torch._foreach_add_(mixed, second, alpha=w2)
            torch._foreach_sub_(self.parameters, mixed, alpha=self.step_size)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="npz of the weights and of a batch x, y")
    parser.add_argument("normalization", choices=("batch", "group"))
    parser.add_argument("--bfloat16", action="store_true")
    arguments = parser.parse_args()
    weights = dict(np.load(arguments.file))
    x = torch.from_numpy(weights.pop("x")).permute(0, 3, 1, 2)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(weights.pop("y")).long()
    network = PreResNet(weights, arguments.normalization)
    network.train()
    step = SVAGStep(network, arguments.bfloat16)
    print(torch.__version__, flush=True)
    print(sum(p.numel() for p in network.parameters()), flush=True)
    with torch.no_grad():
        logits = network(x[0::2]).numpy()
    np.save(arguments.file + ".logits.npy", logits)
    print("ready", flush=True)
    while steps := int(input()):
        start = time.perf_counter()
        for _ in range(steps):
            step(x, y)
        print((time.perf_counter() - start) / steps, flush=True)


if __name__ == "__main__":
    main()
