"""The products of `measureKernels` (src/compute/rates.rs) in PyTorch on one thread: operations a second, as JSON.

    python kernels_peer.py SECONDS WIDTH…
"""

import json
import sys
import time

import torch

ROWS = 512


def rate(seconds, amount, run):
    """How much of `amount` a run is done a second; the first run does not count."""
    run()
    start = time.perf_counter()
    runs = 0
    while True:
        run()
        runs += 1
        passed = time.perf_counter() - start
        if passed >= seconds:
            return runs * amount / passed


def rates(width, seconds):
    x = torch.rand(ROWS, width) - 0.5
    weight = torch.full((width, width), 0.01)
    wide = x.double()
    # PyTorch has no product that leaves half of a symmetric matrix out; what is useful of it is counted.
    gram = wide.T @ wide
    gram += ROWS * torch.eye(width, dtype=torch.float64)
    factor = torch.linalg.cholesky(gram)
    sides = torch.ones(width, ROWS, dtype=torch.float64)
    return {
        "forward": rate(seconds, 2 * ROWS * width**2, lambda: x @ weight),
        "gram": rate(seconds, ROWS * width * (width + 1), lambda: wide.T @ wide),
        "factor": rate(seconds, width**3 / 3, lambda: torch.linalg.cholesky(gram)),
        "solve": rate(seconds, 2 * ROWS * width**2, lambda: torch.cholesky_solve(sides, factor)),
    }


def main():
    torch.set_num_threads(1)
    seconds, *widths = sys.argv[1:]
    json.dump({width: rates(int(width), float(seconds)) for width in widths}, sys.stdout)


if __name__ == "__main__":
    main()
