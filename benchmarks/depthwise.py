"""The two forms of KDSR's per-sample depthwise convolution, and the compiled shifted form, against each other.

    python benchmarks/depthwise.py [--device cuda] [--repeats 15] [--compile]

Prints, for every shape, the median of (shifted / grouped) over interleaved repeats: above 1 the grouped form is faster.
"""

import argparse
import statistics
import time

import torch

from lightbsr_arch.kdsr_arch import depthwise_grouped, depthwise_shifted

SHAPES = {
    "M, one 256x256 image": (1, 64, 256, 256),
    "M, training batch": (8, 64, 64, 64),
    "L, one 64x64 image": (1, 128, 64, 64),
}


def seconds(function, x, kernels, *, train: bool) -> float:
    """Time of one call, with its backward pass if ``train``."""
    if x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    with torch.set_grad_enabled(train):
        y = function(x, kernels)
        if train:
            y.sum().backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="compile the shifted form")
    args = parser.parse_args()
    shifted = torch.compile(depthwise_shifted) if args.compile else depthwise_shifted
    for name, shape in SHAPES.items():
        for train in (False, True):
            x = torch.randn(shape, device=args.device, requires_grad=train)
            kernels = torch.randn(*shape[:2], 3, 3, device=args.device, requires_grad=train)
            ratios = []
            for _ in range(args.repeats + 2):
                grouped = seconds(depthwise_grouped, x, kernels, train=train)
                ratios.append(seconds(shifted, x, kernels, train=train) / grouped)
            ratio = statistics.median(ratios[2:])  # the first two warm up
            print(f"{name:22} {'forward + backward' if train else 'forward':18}  shifted / grouped {ratio:5.2f}")


if __name__ == "__main__":
    main()
