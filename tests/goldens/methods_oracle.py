"""What PEFT does not compute, written from the papers: KnOTS and Core Space in NumPy, RegMean and RegMean++ in PyTorch, DARE's draws.

It shares no code with the Rust core and takes none of its short cuts: KnOTS decomposes the dense concatenation, RegMean
forms the dense products and runs transformers' own forward pass once for every block. RegMean++ reads a block's features from the *candidate's* block behind the *merged* blocks
before it (arXiv 2508.03121, algorithm 1), so a block is run with the task's own deltas and left with the merged ones.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from oracle import POOLER, Deltas, Task, features, levels
from torch import nn

NEGLIGIBLE = 1e-6
"""A common direction whose singular value is below this share of the largest is rounding, and left out."""


def knots(
    deltas: list[np.ndarray], weights: list[float], density: float, majority_sign_method: str, scale: float
) -> np.ndarray:
    """KnOTS with TIES (arXiv 2410.19735) of one layer's deltas (d_out, d_in), in f64.

    [D_1 ... D_N] = U S [V_1 ... V_N]^T; TIES on the components S V_i^T as the authors' code has them, here with
    PEFT's pruning (by tensor), election and disjoint mean; U times the result. A tie of the votes goes to plus, so each
    column of U has the sign with which its largest number is positive.
    """
    u, s, vt = np.linalg.svd(np.concatenate(deltas, axis=1), full_matrices=False)
    signs = np.sign(u[np.abs(u).argmax(axis=0), np.arange(len(s))])
    u, vt = u * signs, vt * signs[:, None]
    kept = s > NEGLIGIBLE * s[0]
    components = np.split(s[kept, None] * vt[kept], len(deltas), axis=1)
    pruned = []
    for component in components:
        count = int(density * component.size)
        smallest = np.argsort(-np.abs(component).ravel(), kind="stable")[count:]
        left = component.ravel().copy()
        left[smallest] = 0
        pruned.append(left.reshape(component.shape))
    stacked = np.stack(pruned)
    votes = np.sign(stacked) if majority_sign_method == "frequency" else stacked
    majority = np.where(votes.sum(axis=0) >= 0, 1, -1)
    agrees = np.sign(stacked) == majority
    total = (stacked * agrees * np.array(weights)[:, None, None]).sum(axis=0)
    return scale * u[:, kept] @ (total / np.maximum(agrees.sum(axis=0), 1))


def core_space(
    factors: list[tuple[np.ndarray, np.ndarray]],
    weights: list[float],
    method: str,
    density: float,
    majority_sign_method: str,
    draws: list[Draws],
) -> np.ndarray:
    """A method in Core Space (arXiv 2509.17786) of one layer's factors B (d_out, r), with the scaling, and A (r, d_in).

    [B_1 ... B_N] = U_B S X^T, [A_1; ...; A_N] = Y T V_A^T; the method on U_B^T B_i A_i V_A; U_B times the result times
    V_A^T. Signs of the directions as in `knots`. Bases as in the authors' `get_core_matrices`, pruning, election and sum
    as in PEFT.
    """

    def basis(columns: np.ndarray) -> np.ndarray:
        u, s, _ = np.linalg.svd(columns, full_matrices=False)
        u = u * np.sign(u[np.abs(u).argmax(axis=0), np.arange(len(s))])
        return u[:, s > NEGLIGIBLE * s[0]]

    left = basis(np.concatenate([b for b, _ in factors], axis=1))
    right = basis(np.concatenate([a for _, a in factors], axis=0).T)
    cores = []
    for (b, a), draw in zip(factors, draws):
        core = left.T @ (b @ a) @ right
        if method.startswith("dare"):
            cores.append(core * draw.mask(core.shape, density).numpy() / density)
        else:
            count = int(density * core.size)
            core.ravel()[np.argsort(-np.abs(core).ravel(), kind="stable")[count:]] = 0
            cores.append(core)
    stacked = np.stack(cores)
    of_task = np.array(weights)[:, None, None]
    if method in ("dare_linear", "magnitude_prune"):
        return left @ (stacked * of_task).sum(axis=0) @ right.T
    votes = np.sign(stacked) if majority_sign_method == "frequency" else stacked
    agrees = np.sign(stacked) == np.where(votes.sum(axis=0) >= 0, 1, -1)
    merged = (stacked * agrees * of_task).sum(axis=0) / np.maximum(agrees.sum(axis=0), 1)
    return left @ merged @ right.T


def regmean(
    encoder: nn.Module, tasks: list[Task], non_diagonal: float = 0.9, padding: str = "exclude", plus_plus: bool = False
) -> Deltas:
    """RegMean (arXiv 2212.09849) on the deltas: sum_i w_i D_i G_i' (sum_i w_i G_i')^-1, G_i' = a G_i + (1 - a) diag(G_i).

    RegMean's features are those of each adapter alone; RegMean++'s are those of each adapter's block behind the merged
    blocks before it.
    """
    names = [name for level in levels(tasks, len(encoder.encoder.layer)) for name in level]
    merged: Deltas = {}
    for block in dict.fromkeys(map(block_of, names)):
        own = [name for name in names if block_of(name) == block]
        found: Deltas = {}
        seen = []
        for task in tasks:
            deltas = task.deltas
            if plus_plus:
                deltas = {name: d for name, d in deltas.items() if block_of(name) == block} | merged
            seen.append(features(encoder, task.batch, deltas, own, padding))
        for name in own:
            shape = encoder.get_submodule(name).weight.shape
            right = torch.zeros(shape, dtype=torch.float64)
            left = torch.zeros(shape[1], shape[1], dtype=torch.float64)
            for task, x in zip(tasks, seen):
                gram = x[name].T @ x[name]
                gram = non_diagonal * gram + (1 - non_diagonal) * torch.diag(torch.diag(gram))
                right += task.weight * task.deltas.get(name, torch.zeros_like(right)) @ gram
                left += task.weight * gram
            found[name] = torch.linalg.solve(left, right.T).T
        merged |= found
    return merged


def block_of(name: str) -> str:
    """`encoder.layer.1` of a layer's module; the pooler is a block of its own."""
    return name if name == POOLER else ".".join(name.split(".")[:3])


class Draws:
    """DARE's uniform numbers for one adapter at one layer: PCG64 (XSL-RR 128/64), seeded from a SHA-256."""

    MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
    MASK = (1 << 128) - 1

    def __init__(self, seed: int, layer: str, task: str):
        digest = hashlib.sha256(f"{seed}\0{layer}\0{task}".encode()).digest()
        self.increment = (int.from_bytes(digest[16:], "little") << 1 | 1) & self.MASK
        self.state = (int.from_bytes(digest[:16], "little") + self.increment) & self.MASK
        self._step()

    def _step(self) -> None:
        self.state = (self.state * self.MULTIPLIER + self.increment) & self.MASK

    def uniform(self) -> float:
        """The next number, 0 <= x < 1, of 53 bits."""
        self._step()
        rotation = self.state >> 122
        folded = (self.state >> 64 ^ self.state) & ((1 << 64) - 1)
        word = (folded >> rotation | folded << (64 - rotation)) & ((1 << 64) - 1)
        return (word >> 11) * 2.0**-53

    def mask(self, shape: tuple[int, ...], density: float) -> torch.Tensor:
        """1 where a number is kept, row by row."""
        count = int(np.prod(shape))
        kept = [1.0 if self.uniform() < density else 0.0 for _ in range(count)]
        return torch.tensor(kept, dtype=torch.float64).reshape(shape)
