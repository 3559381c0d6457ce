"""IterIS in PyTorch for any transformers language model: the oracle of `data/families` and of the generative example.

Like `oracle.py` (BERT only) it shares no code with the Rust core and takes no short cut of the core's: dense products,
every feature in memory, `sweep` only as the iteration run until its solution stands still. A module is whatever the
model calls an `nn.Linear` or a `Conv1D`; what feeds it is caught by a hook, so no family is known here.

Samples are never padded (only samples of equal lengths run together),
so there is no row of padding to leave out, and the keys and values of cross-attention have the encoder's rows by
themselves. And precision: transformers' norms, softmaxes and rotary angles go through f32 even in an f64 model, unless
they run inside `exact()`; a merge magnifies such rounding by up to 1/alpha in directions that only alpha holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import pathlib
from collections.abc import Iterator

import torch
from oracle import Deltas, Options, delta_weight, ridge
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

SETTLED = 1e-12
"""A sweep has ended when no module's delta moves by more than this part of its norm."""


@dataclasses.dataclass
class Task:
    """One adapter with its calibration samples.

    `deltas` maps module names to weight changes (d_out, d_in), as `peft_deltas` gives them. Each of `inputs` is
    one sample: `{"input_ids": [..]}`, for an encoder-decoder also `"decoder_input_ids": [..]`, which are fixed
    beforehand: the start token and the adapter's own greedy answer but its last token (`own_answer`, `shifted`), or a
    given answer, or the start token alone. A captioner's sample is `{"pixel_values": (channels, height, width) as lists,
    "input_ids": [..]}`: what the decoder reads, made like `decoder_input_ids` (`own_caption`, `shifted`). `positions` is
    0 or 1 by token of each sample's `input_ids`: rows of 0 do not count. It is for models without a decoder side of
    their own.
    """

    name: str
    deltas: Deltas
    inputs: list[dict[str, list[int]]]
    weight: float = 1.0
    positions: list[list[int]] | None = None


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """In here what transformers says is f32 is f64: its norms, softmaxes and rotary angles round nowhere else.

    Integers still become f32 by `.float()`: T5's buckets of relative positions are defined by that rounding.
    """
    single, short, to_single = torch.float32, torch.float, torch.Tensor.float

    def to_double(self: torch.Tensor, *how, **more) -> torch.Tensor:
        return self.double() if self.is_floating_point() else to_single(self, *how, **more)

    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = to_double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = single, short, to_single


def precision_of(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    return exact() if next(model.parameters()).dtype == torch.float64 else contextlib.nullcontext()


def body_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model without its head, which transformers calls the base model; T5's own head is inside it."""
    return model.base_model


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


def weight_of(module: nn.Module) -> torch.Tensor:
    """(d_out, d_in) in f64; a `Conv1D` keeps it the other way round."""
    weight = module.weight.detach().double()
    return weight.T if isinstance(module, Conv1D) else weight


def peft_deltas(model: PreTrainedModel, folder: str | pathlib.Path) -> Deltas:
    """The deltas (d_out, d_in) of an adapter folder, as PEFT itself computes them; the model is left as it was.

    Names are those inside `body_of(model)`: `layers.0.self_attn.q_proj`, `h.0.attn.c_attn`,
    `encoder.block.0.layer.0.SelfAttention.q`.
    """
    peft = PeftModel.from_pretrained(model, str(folder))
    inside = {id(module): name for name, module in body_of(model).named_modules()}
    deltas = {}
    for module in peft.modules():
        if isinstance(module, LoraLayer):
            delta = delta_weight(module)
            turned = isinstance(module.get_base_layer(), Conv1D)
            deltas[inside[id(module)]] = delta.T.contiguous() if turned else delta
    peft.unload()
    return deltas


class patched:
    """A model with deltas added to its linear layers, within a `with`; `inputs` holds what each layer read."""

    def __init__(self, body: nn.Module, deltas: Deltas, watch: list[str] = ()):
        self.body, self.deltas, self.watch = body, deltas, watch
        self.inputs: dict[str, torch.Tensor] = {}

    def __enter__(self) -> patched:
        # Sorted: the order in which hooks are set must not depend on the order of a set.
        self.hooks = [
            self.body.get_submodule(name).register_forward_hook(self._hook(name))
            for name in sorted({*self.deltas, *self.watch})
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


def run(body: PreTrainedModel, **tensors: torch.Tensor):
    """One forward pass without a cache."""
    if "use_cache" in inspect.signature(body.forward).parameters:
        tensors["use_cache"] = False
    with torch.no_grad(), precision_of(body):
        return body(**tensors)


def modules_in_order(model: PreTrainedModel, names: list[str], sample: dict[str, list[int]]) -> list[str]:
    """The named modules in the order in which the forward pass calls them."""
    body, found = body_of(model), []
    hooks = [
        body.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: found.append(name)) for name in names
    ]
    run(body, **{key: torch.tensor([ids]) for key, ids in sample.items()})
    for hook in hooks:
        hook.remove()
    return found


def features(model: PreTrainedModel, task: Task, deltas: Deltas, names: list[str]) -> dict[str, torch.Tensor]:
    """The inputs (rows, d_in), f64, of the named modules when the model runs with the deltas on the task's samples.

    Rows are sample after sample, in each sample position after position; a module that reads pooled samples (a pooler)
    has one row a sample. Which rows a module has follows from what it reads.
    """
    body = body_of(model)
    by_lengths: dict[tuple[int, ...], list[int]] = {}
    for index, sample in enumerate(task.inputs):
        by_lengths.setdefault(tuple(map(len, sample.values())), []).append(index)
    found: dict[str, list[torch.Tensor]] = {name: [None] * len(task.inputs) for name in names}
    for indices in by_lengths.values():
        keys = task.inputs[indices[0]].keys()
        with patched(body, deltas, names) as caught:
            run(body, **{key: torch.tensor([task.inputs[index][key] for index in indices]) for key in keys})
        for name in names:
            for index, rows in zip(indices, caught.inputs[name]):
                rows = rows.reshape(-1, rows.shape[-1])
                if task.positions and len(rows) == len(task.positions[index]):
                    rows = rows[torch.tensor(task.positions[index]).bool()]
                found[name][index] = rows.double()
    return {name: torch.cat(rows) for name, rows in found.items()}


def merge(model: PreTrainedModel, tasks: list[Task], options: Options = Options()) -> Deltas:
    """Merges the tasks' adapters by IterIS: `{module: delta}`, (d_out, d_in) in f64, for each module that one targets.

    `model` is any transformers language model in eval mode without adapters, in f64 for goldens or in f32 for speed;
    it is not changed. With `schedule="sweep"` passes are made until nothing moves, with `"iterate"` `max_iter` of them;
    the first pass has merged features equal to the tasks' own. There is no padding, so `padding` must be "exclude".
    """
    if options.padding != "exclude":
        raise ValueError("the language oracle pads nothing: options.padding must be 'exclude'")
    body = body_of(model)
    targeted = sorted(set().union(*(task.deltas for task in tasks)))
    names = modules_in_order(model, targeted, tasks[0].inputs[0])
    if sorted(names) != targeted:
        raise ValueError(f"modules that the forward pass does not call once: {sorted(set(targeted) ^ set(names))}")
    if wrong := [name for name in names if not is_linear(body.get_submodule(name))]:
        raise ValueError(f"modules that are no linear layers: {wrong}")
    base = {name: weight_of(body.get_submodule(name)) for name in names}

    def delta_of(task: Task, name: str) -> torch.Tensor:
        return task.deltas.get(name, torch.zeros_like(base[name]))

    own = [features(model, task, task.deltas, names) for task in tasks]
    lambdas = {
        name: [
            task.weight * adaptive_weight(base[name] + delta_of(task, name), x[name], options)
            for task, x in zip(tasks, own)
        ]
        for name in names
    }
    merged: Deltas = {}
    # A level can settle only when those before it have, and there are no more levels than modules.
    passes = len(names) + 1 if options.schedule == "sweep" else options.max_iter
    for step in range(passes):
        current = own if step == 0 else [features(model, task, merged, names) for task in tasks]
        before, merged = merged, {}
        for name in names:
            right = torch.zeros_like(base[name])
            left = torch.zeros(base[name].shape[1], base[name].shape[1], dtype=torch.float64)
            for task, lam, x, xt in zip(tasks, lambdas[name], own, current):
                wanted = delta_of(task, name) + (base[name] if options.target == "full" else 0)
                right += lam * wanted @ ridge(xt[name].T @ x[name], options.alpha1).T
                left += lam * ridge(xt[name].T @ xt[name], options.alpha2)
            # left is symmetric: right left^-1 = (left^-1 right^T)^T.
            solution = torch.linalg.solve(left, right.T).T
            merged[name] = (solution - base[name] if options.target == "full" else solution).contiguous()
        if options.schedule == "sweep" and before and moved(before, merged) <= SETTLED:
            return merged
    if options.schedule == "sweep":
        raise ValueError(f"the sweep has not settled after {passes} passes: features depend on what comes after them")
    return merged


def adaptive_weight(full: torch.Tensor, x: torch.Tensor, options: Options) -> float:
    """||W0 + D_i||_F^2 / ||X_i (W0 + D_i)^T||_F^2 of one module."""
    return float(full.norm() ** 2 / (x @ full.T).norm() ** 2) if options.adaptive_weights else 1.0


def moved(before: Deltas, after: Deltas) -> float:
    """The largest relative change of a module's delta."""
    return max(float((after[name] - delta).norm() / delta.norm()) for name, delta in before.items())


def shifted(answer: list[int], start: int) -> list[int]:
    """The decoder's inputs for an answer: the start token, then the answer but its last token."""
    return [start, *answer[:-1]]


def own_answer(model: PreTrainedModel, deltas: Deltas, input_ids: list[int], max_new_tokens: int) -> list[int]:
    """What the model with the deltas writes greedily for one sample, by transformers' `generate`.

    New tokens only, the stop token included.
    """
    return own_answer_and_margin(model, deltas, input_ids, max_new_tokens)[0]


def own_answer_and_margin(
    model: PreTrainedModel, deltas: Deltas, input_ids: list[int], max_new_tokens: int
) -> tuple[list[int], float]:
    """The answer, and by what part of the largest score its closest choice was won (infinite where all are forced)."""
    with patched(body_of(model), deltas), torch.no_grad(), precision_of(model):
        out = model.generate(
            torch.tensor([input_ids]),
            attention_mask=torch.ones(1, len(input_ids), dtype=torch.long),
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            return_dict_in_generate=True,
            output_scores=True,
        )
    answer = out.sequences[0].tolist()[1 if model.config.is_encoder_decoder else len(input_ids) :]
    return answer, least_lead(out.scores)


def own_caption(
    model: PreTrainedModel, deltas: Deltas, pixels: torch.Tensor, max_new_tokens: int, begins: list[int] = ()
) -> tuple[list[int], float]:
    """What a captioner (BLIP) with the deltas writes greedily of one picture (channels, height, width), and its least lead.

    New tokens only, the `[SEP]` that ends a caption included. `begins` holds the tokens with which the caption is to
    begin; before them the decoder reads `text_config.bos_token_id` (`[DEC]`), as transformers' `generate` sees to.
    """
    text = model.config.text_config
    # `generate` itself puts [DEC] in the place of the first token and drops the last one, a tokenizer's [CLS] and [SEP].
    ids = torch.tensor([[text.bos_token_id, *begins, text.sep_token_id]])
    with patched(body_of(model), deltas), torch.no_grad(), precision_of(model):
        out = model.generate(
            pixel_values=pixels[None],
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            return_dict_in_generate=True,
            output_scores=True,
        )
    return out.sequences[0].tolist()[1 + len(begins) :], least_lead(out.scores)


def least_lead(scores: tuple[torch.Tensor, ...]) -> float:
    """By what part of the largest score the closest of the choices was won; infinite where all are forced."""
    leads = []
    for step in scores:
        finite = step[0][step[0].isfinite()]
        best = finite.topk(2).values if len(finite) > 1 else None
        leads.append(float((best[0] - best[1]) / finite.abs().max()) if best is not None else float("inf"))
    return min(leads)
