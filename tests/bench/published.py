"""The published algorithm in PyTorch on the files of `random-model.mjs`: what our sweep is held against.

Written from the formulas of the paper, with what makes up the published structure kept: the paper's iteration (ten
passes), the features of every targeted layer kept in memory for every sample, of the tasks' own models through all
passes and of the merged model through one; for every layer by itself its Gram matrices, the dense product of the whole
delta (d_out x d_in) with C^T, and a dense solve with d_out right-hand sides, in f64 as the package does. The forward pass
is transformers' own in f32, with the deltas added into the weights, all samples of a task in one batch, without the
head. Nothing is slowed down: layers that read the same input keep one copy of it, in the first pass, where C = G, it is
formed once, and PyTorch has every core.

    python published.py FOLDER [--passes N] [--save FILE] [--against ADAPTER] [--generate N]

Prints JSON: seconds by phase, floating-point operations of forward passes and Gram matrices, peak memory. `--save`
writes the merged deltas; `--against` compares them with a merged PEFT adapter; `--generate N` instead measures greedy
generation of N new tokens for the samples of the first task, in one batch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import resource
import time
from collections.abc import Iterator

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BlipForConditionalGeneration,
    PreTrainedModel,
)

ALPHA = 1e-5
"""alpha_1 and alpha_2: the package's defaults."""


class Meter:
    """Seconds and floating-point operations by phase."""

    def __init__(self):
        self.seconds = dict.fromkeys(["load", "forward", "gram", "solve", "write"], 0.0)
        self.operations = {"forward": 0.0, "gram": 0.0}
        self.began = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start

    def report(self) -> dict:
        total = time.perf_counter() - self.began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"seconds": self.seconds | {"total": total}, "operations": self.operations, "peak_bytes": peak}


class Model:
    """The model without its head, with deltas added to its weights."""

    def __init__(self, folder: pathlib.Path, meter: Meter):
        kind = AutoConfig.from_pretrained(folder).model_type
        # `AutoModel` of BLIP is another model, without the decoder that writes captions.
        loads = BlipForConditionalGeneration if kind == "blip" else AutoModel
        self.body = loads.from_pretrained(folder, dtype=torch.float32).eval()
        self.meter = meter
        # What the head's class has before the names of the layers.
        self.prefix = {"t5": "", "blip": "", "vit": "vit."}.get(kind, "model.")
        # W0 (d_out, d_in) of the targeted layers.
        self.base: dict[str, torch.Tensor] = {}
        for module in self.body.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_pre_hook(self._counts)

    def _counts(self, module: torch.nn.Linear, args: tuple[torch.Tensor]) -> None:
        self.meter.operations["forward"] += 2.0 * args[0].numel() * module.out_features

    def adapter(self, folder: pathlib.Path) -> dict[str, torch.Tensor]:
        """The deltas (d_out, d_in) of a PEFT adapter by module."""
        settings = json.loads((folder / "adapter_config.json").read_text())
        factors = load_file(folder / "adapter_model.safetensors")
        deltas = {}
        for key, a in factors.items():
            if ".lora_A" in key:
                name = key.removeprefix("base_model.model.").removeprefix(self.prefix).split(".lora_A")[0]
                b = factors[key.replace("lora_A", "lora_B")]
                deltas[name] = b @ a * (settings["lora_alpha"] / settings["r"])
        return deltas

    def keep_base(self, names: list[str]) -> None:
        self.base = {name: self.body.get_submodule(name).weight.detach().clone() for name in names}

    def features(self, batch: dict[str, torch.Tensor], deltas: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inputs (rows, d_in) of the targeted layers when the model runs with the deltas on a task's samples."""
        inputs: dict[str, torch.Tensor] = {}

        def keep(name: str):
            def hook(_module, args):
                inputs[name] = args[0].flatten(0, -2)

            return hook

        hooks = []
        for name, weight in self.base.items():
            module = self.body.get_submodule(name)
            module.weight.data = weight + deltas[name] if name in deltas else weight
            hooks.append(module.register_forward_pre_hook(keep(name)))
        self._run(**batch)
        for hook in hooks:
            hook.remove()
        return inputs

    def _run(self, pixel_values: torch.Tensor | None = None, **tokens: torch.Tensor) -> None:
        if pixel_values is None:
            self.body(**tokens, use_cache=False)
        elif tokens:
            image = self.body.vision_model(pixel_values).last_hidden_state
            decoder = self.body.text_decoder
            states = decoder.bert(**tokens, encoder_hidden_states=image, is_decoder=True, use_cache=False)
            # The head but for its product with the vocabulary.
            decoder.cls.predictions.transform(states.last_hidden_state)
        else:
            self.body(pixel_values)


def read_tasks(folder: pathlib.Path, config) -> dict[str, dict[str, torch.Tensor]]:
    """Each task's samples as the arguments of the model."""
    batches = {}
    for task in json.loads((folder / "samples.json").read_text())["tasks"]:
        batch = {} if task["ids"] is None else {"input_ids": torch.tensor(task["ids"])}
        if task["ids"] is None:
            processor = AutoImageProcessor.from_pretrained(folder / "base", backend="pil")
            pictures = [Image.open(path) for path in sorted((folder / f"{task['name']}.samples").glob("*.png"))]
            batch["pixel_values"] = processor(pictures, return_tensors="pt")["pixel_values"]
        if task["answers"]:
            # transformers' shift_right: the start token, then the answer but its last token; of BLIP as `generate` does.
            writes = task["ids"] is None
            start = config.text_config.bos_token_id if writes else config.decoder_start_token_id
            starts = torch.full((len(task["answers"]), 1), start)
            answers = torch.tensor(task["answers"])[:, :-1]
            batch["input_ids" if writes else "decoder_input_ids"] = torch.cat([starts, answers], dim=1)
        batches[task["name"]] = batch
    return batches


def ridge(gram: torch.Tensor) -> torch.Tensor:
    return gram + ALPHA * gram.norm() * torch.eye(len(gram), dtype=gram.dtype)


def merge(model: Model, tasks: list[tuple[dict, dict]], passes: int, meter: Meter) -> dict[str, torch.Tensor]:
    """The merged deltas (d_out, d_in), f64, of `tasks`, each a batch with its deltas."""
    names = list(dict.fromkeys(name for _, deltas in tasks for name in deltas))
    model.keep_base(names)
    with meter.phase("forward"):
        own = [model.features(batch, deltas) for batch, deltas in tasks]
    with meter.phase("gram"):
        lambdas = {}
        for name in names:
            full = [model.base[name] + deltas[name] for _, deltas in tasks]
            lambdas[name] = [
                float(weight.double().norm() ** 2 / (x[name] @ weight.T).double().norm() ** 2)
                for weight, x in zip(full, own)
            ]
    merged: dict[str, torch.Tensor] = {}
    for step in range(passes):
        if step == 0:
            current = own
        else:
            # The last pass's features are not kept beside the new ones.
            current = []
            single = {name: delta.float() for name, delta in merged.items()}
            with meter.phase("forward"):
                current = [model.features(batch, single) for batch, _ in tasks]
        for name in names:
            left = right = 0
            for (_, deltas), lam, x, xt in zip(tasks, lambdas[name], own, current):
                with meter.phase("gram"):
                    merged_rows = xt[name].double()
                    gram = merged_rows.T @ merged_rows
                    cross = gram if step == 0 else merged_rows.T @ x[name].double()
                    rows, d_in = merged_rows.shape
                    meter.operations["gram"] += (2.0 if step == 0 else 4.0) * rows * d_in**2
                with meter.phase("solve"):
                    right = right + lam * deltas[name].double() @ ridge(cross).T
                    left = left + lam * ridge(gram)
            with meter.phase("solve"):
                # D* = right left^-1, and left is symmetric.
                merged[name] = torch.linalg.solve(left, right.T).T
    return merged


def largest_difference(found: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert found.keys() == other.keys(), "the two merges have different layers"
    return max(float((found[name] - other[name]).norm() / found[name].norm()) for name in found)


def generate(folder: pathlib.Path, config, new_tokens: int) -> dict:
    """Greedy answers of the base to the samples of the first task."""
    start = time.perf_counter()
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model: PreTrainedModel = kind.from_pretrained(folder / "base", dtype=torch.float32).eval()
    ids = next(iter(read_tasks(folder, config).values()))["input_ids"]

    def write(count: int) -> list[list[int]]:
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count)
        return out[:, 1 if config.is_encoder_decoder else ids.shape[1] :].tolist()

    write(1)
    read = time.perf_counter()
    answers = write(new_tokens)
    done = time.perf_counter()
    write(1)
    reading = time.perf_counter() - done
    stop = config.eos_token_id
    # What follows a stop token is padding.
    tokens = sum(answer.index(stop) + 1 if stop in answer else len(answer) for answer in answers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # Loading and the prompts' first tokens; the prompts again are in the other measurement, and are taken off it.
    seconds = {"prompts": read - start, "writing": done - read - reading}
    return {"seconds": seconds, "tokens": tokens, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--save", type=pathlib.Path)
    parser.add_argument("--against", type=pathlib.Path)
    parser.add_argument("--generate", type=int, default=0)
    args = parser.parse_args()
    config = AutoConfig.from_pretrained(args.folder / "base")
    with torch.inference_mode():
        if args.generate:
            print(json.dumps(generate(args.folder, config, args.generate)))
            return
        meter = Meter()
        with meter.phase("load"):
            model = Model(args.folder / "base", meter)
            batches = read_tasks(args.folder, config)
            tasks = [(batch, model.adapter(args.folder / name)) for name, batch in batches.items()]
        merged = merge(model, tasks, args.passes, meter)
        if args.save:
            with meter.phase("write"):
                save_file({name: delta.float().contiguous() for name, delta in merged.items()}, args.save)
        report = meter.report() | {"passes": args.passes, "threads": torch.get_num_threads()}
        if args.against:
            report["difference"] = largest_difference(merged, model.adapter(args.against))
        print(json.dumps(report))


if __name__ == "__main__":
    main()
