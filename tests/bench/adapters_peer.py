"""The peer of `npm run bench -- --adapters`: the same merges in PyTorch, in f32, as a person would write them.

    python adapters_peer.py inspect ADAPTER
    python adapters_peer.py linear | svd | ties | ties-peft RANK THREADS OUT ADAPTER ADAPTER …
    python adapters_peer.py difference OURS THEIRS

`linear` concatenates factors. `svd` is a QR of the concatenated factors and the SVD of the small product. `ties` forms
every layer's deltas, calls PEFT's own `ties` on them and cuts the result by `torch.svd_lowrank`; `ties-peft` cuts it as
PEFT's `ties_svd` does, by a full SVD. Both keep a density of 0.5. Adapters are files of kohya's or folders of PEFT's,
and so is what is written, in f16.

Prints seconds (of the work, imports apart) and the process's peak memory as JSON; `difference` the largest
||ours - theirs||_F / ||theirs||_F among up to 40 layers, evenly taken.
"""

from __future__ import annotations

import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable

import torch
from peft.utils.merge_utils import ties as peft_ties
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

Factors = tuple[Tensor, Tensor]
"""B (d_out x rank) and A (rank x d_in), f32; their product is the change."""
Method = Callable[[list[Factors], int], Factors]

DENSITY = 0.5
UP_DOWN = {"kohya": (".lora_up.weight", ".lora_down.weight"), "peft": (".lora_B.weight", ".lora_A.weight")}
OVERSAMPLING, POWER_STEPS = 10, 2
"""Of the range finder; Halko, Martinsson and Tropp's choice for matrices whose singular values fall slowly."""


class Adapter:
    """An adapter's tensors as they are in its file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.form = "peft" if path.is_dir() else "kohya"
        self.tensors = load_file(path / "adapter_model.safetensors" if path.is_dir() else path)
        config = json.loads((path / "adapter_config.json").read_text()) if path.is_dir() else {}
        self.config = config
        up, _ = UP_DOWN[self.form]
        self.modules = [name.removesuffix(up) for name in self.tensors if name.endswith(up)]

    def factors(self, module: str) -> Factors:
        """The scaling is in B."""
        up, down = (self.tensors[module + end].float().flatten(1) for end in UP_DOWN[self.form])
        alpha = self.tensors.get(f"{module}.alpha", self.config.get("lora_alpha"))
        return up * (float(alpha) / len(down)), down


def linear(parts: list[Factors], _rank: int) -> Factors:
    """The sum, nothing computed."""
    return torch.cat([b for b, _ in parts], 1), torch.cat([a for _, a in parts], 0)


def svd(parts: list[Factors], rank: int) -> Factors:
    """The sum's best approximation of a rank."""
    b, a = linear(parts, rank)
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T)
    return q_b @ (u[:, :rank] * s[:rank]), vh[:rank] @ q_a.T


def elected(parts: list[Factors]) -> Tensor:
    """TIES on the changes themselves (d_out x d_in)."""
    return peft_ties([b @ a for b, a in parts], torch.ones(len(parts)), DENSITY, "total")


def ties(parts: list[Factors], rank: int) -> Factors:
    """TIES, cut by a randomised range finder."""
    delta = elected(parts)
    u, s, v = torch.svd_lowrank(delta, min(rank + OVERSAMPLING, *delta.shape), POWER_STEPS)
    return u[:, :rank] * s[:rank], v[:, :rank].T


def ties_peft(parts: list[Factors], rank: int) -> Factors:
    """TIES, cut as in PEFT's `_svd_generalized_task_arithmetic_weighted_adapter`, with its defaults."""
    u, s, vh = torch.linalg.svd(elected(parts), full_matrices=True)
    return u[:, :rank] @ torch.diag(s[:rank]), vh[:rank]


METHODS: dict[str, Method] = {"linear": linear, "svd": svd, "ties": ties, "ties-peft": ties_peft}


def merge(method: Method, rank: int, paths: list[pathlib.Path], out: pathlib.Path) -> None:
    """All adapters have the same modules, as those of `adapters.py` do."""
    adapters = [Adapter(path) for path in paths]
    first = adapters[0]
    up, down = UP_DOWN[first.form]
    merged = {}
    for module in first.modules:
        b, a = method([adapter.factors(module) for adapter in adapters], rank)
        merged[module + up], merged[module + down] = b.half().contiguous(), a.half().contiguous()
        largest = len(a)
        if first.form == "kohya":
            merged[f"{module}.alpha"] = torch.tensor(float(len(a)), dtype=torch.float16)
    if first.form == "kohya":
        save_file(merged, out)
        return
    out.mkdir()
    save_file(merged, out / "adapter_model.safetensors", {"format": "pt"})
    config = first.config | {"r": largest, "lora_alpha": largest}
    (out / "adapter_config.json").write_text(json.dumps(config))


def inspect(path: pathlib.Path) -> dict:
    """Modules, ranks and parameters, from the header alone."""
    file = path / "adapter_model.safetensors" if path.is_dir() else path
    with safe_open(file, "pt") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}
    downs = [shape for name, shape in shapes.items() if name.endswith(tuple(down for _, down in UP_DOWN.values()))]
    parameters = sum(torch.Size(shape).numel() for name, shape in shapes.items() if not name.endswith(".alpha"))
    return {"modules": len(downs), "ranks": sorted({shape[0] for shape in downs}), "parameters": parameters}


def difference(ours: pathlib.Path, theirs: pathlib.Path) -> float:
    """The largest relative difference of a change, without forming it."""
    left, right = Adapter(ours), Adapter(theirs)
    assert sorted(left.modules) == sorted(right.modules), "the two results change different modules"
    step = max(1, len(right.modules) // 40)
    worst = 0.0
    for module in right.modules[::step]:
        (b, a), (other_b, other_a) = left.factors(module), right.factors(module)
        gap = norm(torch.cat([b, -other_b], 1), torch.cat([a, other_a], 0))
        worst = max(worst, gap / norm(other_b, other_a))
    return worst


def norm(b: Tensor, a: Tensor) -> float:
    """||B A||_F by triangular factors, whose product has as many columns as the ranks are: no loss where parts cancel."""
    r_b, r_a = torch.linalg.qr(b.double(), "r").R, torch.linalg.qr(a.double().T, "r").R
    return float(torch.linalg.matrix_norm(r_b @ r_a.T))


def main() -> None:
    """See the head of this file."""
    what, *words = sys.argv[1:]
    found = {}
    begin = time.perf_counter()
    if what == "inspect":
        found = inspect(pathlib.Path(words[0]))
    elif what == "difference":
        found = {"difference": difference(*map(pathlib.Path, words))}
    else:
        rank, threads, out, *adapters = words
        torch.set_num_threads(int(threads))
        with torch.no_grad():
            merge(METHODS[what], int(rank), list(map(pathlib.Path, adapters)), pathlib.Path(out))
    seconds = time.perf_counter() - begin
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes, **found}))


if __name__ == "__main__":
    main()
