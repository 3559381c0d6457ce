"""Makes `tests/goldens/data/convolutions`: what PyTorch says of convolutions, and IterIS solved for one by an oracle.

A convolution is a linear layer over windows: one row an output position, channels times kernel area wide. What it
answers and which windows it reads are PyTorch's own (`conv2d`, `unfold`), in f64; the merged deltas are `oracle.py`'s
formulas on those windows. Weights, inputs and adapters are f32 numbers of numpy's stream.

    python tests/goldens/convolutions.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import shutil

import torch
from generate import normal, rng, rounded, write_json
from oracle import Options, ridge
from safetensors.torch import save_file
from torch.nn import functional

HERE = pathlib.Path(__file__).resolve().parent
INPUTS, OUTPUTS, HEIGHT, WIDTH = 3, 5, 7, 6
# Rank, lora_alpha and weight of each task's adapter, and how many inputs the task has.
TASKS = {"a": (2, 3.0, 1.0, 3), "b": (3, 3.0, 2.0, 4)}
OPTIONS = {"delta": Options(), "full": Options(target="full"), "plain": Options(adaptive_weights=False)}

Tensors = dict[str, torch.Tensor]


def windows(x: torch.Tensor, kernel: int, stride: int, padding: int) -> torch.Tensor:
    """(rows, channels * kernel * kernel): a row an output position, from left to right and top to bottom, sample after sample."""
    return functional.unfold(x, kernel, stride=stride, padding=padding).transpose(1, 2).flatten(0, 1)


def inputs() -> Tensors:
    """(samples, channels, height, width): `x` for what the layer answers; of each task what it reads under the task's
    own adapter (`x.a`) and under a merge (`xt.a`)."""
    draw = rng("convolutions/inputs")
    found = {"x": normal(draw, (2, INPUTS, HEIGHT, WIDTH), 1.0, 0.2)}
    for name, (_, _, _, count) in TASKS.items():
        own = normal(draw, (count, INPUTS, HEIGHT, WIDTH), 1.0, 0.3)
        found |= {f"x.{name}": own, f"xt.{name}": own + normal(draw, own.shape, 0.2)}
    return found


def layer(key: str, kernel: int) -> Tensors:
    """A layer, and adapters on it as PEFT stores them: A is a convolution of the same kernel, B one of side 1."""
    draw = rng(f"convolutions/{key}")
    area = INPUTS * kernel * kernel
    found = {
        "weight": normal(draw, (OUTPUTS, INPUTS, kernel, kernel), area**-0.5),
        "bias": normal(draw, (OUTPUTS,), 0.3),
    }
    for name, (rank, _, _, _) in TASKS.items():
        found[f"{name}.lora_A"] = normal(draw, (rank, INPUTS, kernel, kernel), area**-0.5)
        found[f"{name}.lora_B"] = normal(draw, (OUTPUTS, rank, 1, 1), 0.4)
    return found


def delta_of(own: Tensors, name: str) -> torch.Tensor:
    """(d_out, d_in). Two convolutions one after the other answer as one whose weight is this."""
    rank, alpha, _, _ = TASKS[name]
    return alpha / rank * own[f"{name}.lora_B"].double().flatten(1) @ own[f"{name}.lora_A"].double().flatten(1)


def solved(weight: torch.Tensor, deltas: list, x: list, xt: list, options: Options) -> tuple[torch.Tensor, list, list]:
    """D*, and by task lambda and residual, of one layer with rows X and Xt."""
    lambdas = [
        given * (float((weight + delta).norm() ** 2 / (rows @ (weight + delta).T).norm() ** 2) if options.adaptive_weights else 1.0)
        for (_, _, given, _), delta, rows in zip(TASKS.values(), deltas, x)
    ]  # fmt: skip
    right, left = torch.zeros_like(weight), torch.zeros(2 * [weight.shape[1]], dtype=torch.float64)
    for lam, delta, own, merged in zip(lambdas, deltas, x, xt):
        wanted = delta + (weight if options.target == "full" else 0)
        right += lam * wanted @ ridge(merged.T @ own, options.alpha1).T
        left += lam * ridge(merged.T @ merged, options.alpha2)
    solution = torch.linalg.solve(left, right.T).T
    solution = solution - weight if options.target == "full" else solution
    residuals = [
        float(((answer := own @ delta.T) - merged @ solution.T).norm() ** 2 / answer.norm() ** 2)
        for delta, own, merged in zip(deltas, x, xt)
    ]
    return solution, lambdas, residuals


def case(key: str, kernel: int, stride: int, padding: int, given: Tensors) -> tuple[dict, Tensors]:
    how = {"stride": stride, "padding": padding}
    own = layer(f"kernel {kernel}", kernel)
    weight, bias = own["weight"].double(), own["bias"].double()
    rows = {name: windows(value.double(), kernel, stride, padding) for name, value in given.items()}
    output = functional.conv2d(given["x"].double(), weight, bias, **how)
    as_rows = output.permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.allclose(rows["x"] @ weight.flatten(1).T + bias, as_rows, rtol=0, atol=1e-13)
    for name, (rank, alpha, _, _) in TASKS.items():
        through = functional.conv2d(given["x"].double(), own[f"{name}.lora_A"].double(), **how)
        through = functional.conv2d(through, own[f"{name}.lora_B"].double() * alpha / rank)
        assert torch.allclose(rows["x"] @ delta_of(own, name).T, through.permute(0, 2, 3, 1).flatten(0, 2), atol=1e-13)

    tensors = {"output": output.float(), "windows": rows["x"].float(), "gram": rows["x"].T @ rows["x"]}
    deltas = [delta_of(own, name) for name in TASKS]
    said = {"key": key, "kernel": kernel, **how, "lambda": {}, "residual": {}}
    x = [rows[f"x.{name}"] for name in TASKS]
    xt = [rows[f"xt.{name}"] for name in TASKS]
    for name, options in OPTIONS.items():
        # As in the first pass of the iteration, whose merged features are the tasks' own, and as in a later one.
        for pass_, merged in {"first": x, "later": xt}.items():
            solution, lambdas, residuals = solved(weight.flatten(1), deltas, x, merged, options)
            tensors[f"{name}.{pass_}"] = solution.float()
            said["lambda"][name], said["residual"][f"{name}.{pass_}"] = lambdas, residuals
    return said, {f"{key}/{name}": value.contiguous() for name, value in tensors.items()}


def generate(out: pathlib.Path) -> None:
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    given = inputs()
    layers = {f"kernel {kernel}/{name}": value for kernel in (1, 3) for name, value in layer(f"kernel {kernel}", kernel).items()}
    save_file(given | layers, out / "inputs.safetensors")
    found, tensors = [], {}
    for kernel, stride, padding in itertools.product((1, 3), (1, 2), (0, 1)):
        said, own = case(f"k{kernel}s{stride}p{padding}", kernel, stride, padding, given)
        found.append(said)
        tensors |= own
    save_file(tensors, out / "cases.safetensors")
    adapters = {name: {"r": rank, "lora_alpha": alpha, "weight": weight} for name, (rank, alpha, weight, _) in TASKS.items()}
    options = {name: vars(options) for name, options in OPTIONS.items()}
    write_json(out / "cases.json", rounded({"adapters": adapters, "options": options, "cases": found}))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--out", type=pathlib.Path, default=HERE / "data" / "convolutions")
    generate(arguments.parse_args().out)
