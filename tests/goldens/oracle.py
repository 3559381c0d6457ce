"""IterIS in PyTorch, written from the formulas of the paper: the oracle of the goldens and of the built-in example.

It shares no code with the Rust core and takes no short cut of the core's: it forms the dense products, keeps every
feature in memory, and knows `sweep` only as the iteration run for as many passes as the model has levels. The forward
pass is transformers' own, in whatever precision the model it is given has (f64 for the goldens); Gram matrices and
solves are always f64. A linear layer's *input* is caught, in
the run where that layer already adds its adapter's delta, so that a layer never sees its own answer.
"""

from __future__ import annotations

import dataclasses
import pathlib

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

Deltas = dict[str, torch.Tensor]
"""Weight change (d_out, d_in) by module name without the `bert.` prefix: `encoder.layer.0.attention.self.query`."""

ORDER = [
    ["attention.self.query", "attention.self.key", "attention.self.value"],
    ["attention.output.dense"],
    ["intermediate.dense"],
    ["output.dense"],
]
"""The levels of one BERT layer in dataflow order; the members of a level read the same input."""

POOLER = "pooler.dense"
"""The last level: it reads the first token of every sample and nothing else."""


@dataclasses.dataclass
class Batch:
    """Samples of one task, padded at the right to the longest."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor

    @classmethod
    def of(cls, ids: list[list[int]], type_ids: list[list[int]] | None = None, pad_id: int = 0) -> Batch:
        longest = max(map(len, ids))
        kinds = type_ids or [[0] * len(row) for row in ids]
        return cls(
            torch.tensor([row + [pad_id] * (longest - len(row)) for row in ids]),
            torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids]),
            torch.tensor([row + [0] * (longest - len(row)) for row in kinds]),
        )

    def __call__(self, model: nn.Module):
        with torch.no_grad():
            return model(**dataclasses.asdict(self))


@dataclasses.dataclass
class Task:
    """One adapter with its calibration samples."""

    batch: Batch
    deltas: Deltas
    weight: float = 1.0
    layer_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """Takes the place of the weight at the layers named."""


@dataclasses.dataclass
class Options:
    """Named as in the merge options of the package."""

    schedule: str = "sweep"
    max_iter: int = 1
    target: str = "delta"
    alpha1: float = 1e-5
    alpha2: float = 1e-5
    adaptive_weights: bool = True
    padding: str = "exclude"


@dataclasses.dataclass
class Merged:
    """What a merge gives: the deltas, and by module one lambda and one residual a task (None where the task has no delta)."""

    deltas: Deltas
    lambdas: dict[str, list[float]]
    residuals: dict[str, list[float | None]]
    passes: int


def encoder_of(model: nn.Module) -> nn.Module:
    """The BertModel inside a model with a head, or the model itself."""
    return model.bert if hasattr(model, "bert") else model


def delta_weight(layer: LoraLayer) -> torch.Tensor:
    """What PEFT says that a layer's adapter adds to its weight, of factors taken to f64.

    In f32 the product depends on the order of its sums, so on the machine, and a merge magnifies that.
    """
    for factors in (layer.lora_A, layer.lora_B):
        factors.double()
    return layer.get_delta_weight("default").detach()


def peft_deltas(model: nn.Module, folder: str | pathlib.Path) -> Deltas:
    """The deltas of an adapter folder, as PEFT itself computes them. The model is left without the adapter."""
    peft = PeftModel.from_pretrained(model, str(folder))
    deltas = {
        name.removeprefix("base_model.model.").removeprefix("bert."): delta_weight(layer)
        for name, layer in peft.named_modules()
        if isinstance(layer, LoraLayer)
    }
    peft.unload()
    return deltas


def levels(tasks: list[Task], layers: int) -> list[list[str]]:
    """The modules that at least one adapter targets, level by level in dataflow order."""
    targeted = set().union(*(task.deltas for task in tasks))
    found = [
        [name for part in parts if (name := f"encoder.layer.{layer}.{part}") in targeted]
        for layer in range(layers)
        for parts in ORDER
    ]
    found = [names for names in [*found, [POOLER]] if targeted.intersection(names)]
    unknown = targeted - {name for names in found for name in names}
    if unknown:
        raise ValueError(f"targeted modules that the oracle does not know: {sorted(unknown)}")
    return found


class patched:
    """A model with deltas added to its linear layers, for the length of a `with`; `inputs` holds what each layer read."""

    def __init__(self, encoder: nn.Module, deltas: Deltas, watch: list[str] = ()):
        self.encoder, self.deltas, self.watch = encoder, deltas, watch
        self.inputs: dict[str, torch.Tensor] = {}

    def __enter__(self) -> patched:
        self.hooks = [
            self.encoder.get_submodule(name).register_forward_hook(self._hook(name))
            for name in {*self.deltas, *self.watch}
        ]
        return self

    def _hook(self, name: str):
        def hook(_layer, args, out):
            if name in self.watch:
                self.inputs[name] = args[0]
            if name in self.deltas:
                return out + args[0] @ self.deltas[name].to(args[0].dtype).T

        return hook

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


def features(
    encoder: nn.Module, batch: Batch, deltas: Deltas, names: list[str], padding: str
) -> dict[str, torch.Tensor]:
    """The inputs (rows, d_in) in f64 of the named layers when the model runs with the deltas.

    One row a token; for the pooler one row a sample.
    """
    with patched(encoder, deltas, names) as run:
        batch(encoder)
    keep = batch.attention_mask.bool() if padding == "exclude" else torch.ones_like(batch.attention_mask).bool()
    return {name: (run.inputs[name] if name == POOLER else run.inputs[name][keep]).double() for name in names}


def ridge(gram: torch.Tensor, alpha: float) -> torch.Tensor:
    return gram + alpha * gram.norm() * torch.eye(len(gram), dtype=gram.dtype)


def iteris(encoder: nn.Module, tasks: list[Task], options: Options = Options()) -> Merged:
    """Merges the tasks' adapters. `encoder` is a BertModel in eval mode; it is not changed."""
    order = levels(tasks, len(encoder.encoder.layer))
    names = [name for level in order for name in level]
    base = {name: encoder.get_submodule(name).weight.detach().double() for name in names}

    def delta_of(task: Task, name: str) -> torch.Tensor:
        return task.deltas.get(name, torch.zeros_like(base[name]))

    task_features = [features(encoder, task.batch, task.deltas, names, options.padding) for task in tasks]
    lambdas = {
        name: [
            task.layer_weights.get(name, task.weight)
            * (
                float((full := base[name] + delta_of(task, name)).norm() ** 2 / (x[name] @ full.T).norm() ** 2)
                if options.adaptive_weights
                else 1.0
            )
            for task, x in zip(tasks, task_features)
        ]
        for name in names
    }
    passes = len(order) if options.schedule == "sweep" else options.max_iter
    merged: Deltas = {}
    for step in range(passes):
        merged_features = (
            task_features
            if step == 0
            else [features(encoder, task.batch, merged, names, options.padding) for task in tasks]
        )
        solved: Deltas = {}
        for name in names:
            right = torch.zeros_like(base[name])
            left = torch.zeros(base[name].shape[1], base[name].shape[1], dtype=torch.float64)
            for task, lam, x, xt in zip(tasks, lambdas[name], task_features, merged_features):
                wanted = delta_of(task, name) + (base[name] if options.target == "full" else 0)
                right += lam * wanted @ ridge(xt[name].T @ x[name], options.alpha1).T
                left += lam * ridge(xt[name].T @ xt[name], options.alpha2)
            solution = torch.linalg.solve(left, right.T).T
            solved[name] = solution - base[name] if options.target == "full" else solution
        merged = solved
    residuals = {
        name: [
            float(((own := x[name] @ task.deltas[name].T) - xt[name] @ merged[name].T).norm() ** 2 / own.norm() ** 2)
            if name in task.deltas
            else None
            for task, x, xt in zip(tasks, task_features, merged_features)
        ]
        for name in names
    }
    return Merged(merged, lambdas, residuals, passes)


def linear_average(tasks: list[Task]) -> Deltas:
    """sum_i w_i D_i / sum_i w_i; an adapter that does not target a module counts there as zero."""
    total = sum(task.weight for task in tasks)
    return {name: delta / total for name, delta in task_arithmetic(tasks, 1.0).items()}


def task_arithmetic(tasks: list[Task], scale: float) -> Deltas:
    """scale * sum_i w_i D_i."""
    names = sorted(set().union(*(task.deltas for task in tasks)))
    return {
        name: scale * sum(task.weight * task.deltas[name].double() for task in tasks if name in task.deltas)
        for name in names
    }
