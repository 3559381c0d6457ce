"""Random LoRA adapters of true names and shapes, and a random base model, for `npm run bench -- --adapters`.

    python adapters.py FOLDER sdxl-r32 llama7b-r16 …     writes FOLDER/sdxl-r32/a.safetensors, b.safetensors, …
    python adapters.py FOLDER base-7gb                   and FOLDER/base-7gb, the model that llama7gb-r16 is for
    python adapters.py FOLDER all --json                 all but those of the base; where they are, for the benchmark
    python adapters.py --table sdxl | flux               names and shapes as JSON, which tests/bench/data keeps

Names and shapes come from the models themselves, built without weights: diffusers' UNet2DConditionModel and
FluxTransformer2DModel, transformers' CLIP and Llama, with the configurations of the published checkpoints. Numbers are
normally distributed, in f16 and seeded: the same name gives the same bytes. What is there already is left as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import re
import shutil
from collections.abc import Iterator

import numpy
import torch
from safetensors.numpy import save_file
from torch import nn


@dataclasses.dataclass(frozen=True)
class Module:
    """A linear layer that an adapter changes, by its name in the adapter's file."""

    name: str
    d_out: int
    d_in: int


@dataclasses.dataclass(frozen=True)
class Kind:
    """Adapters of one model, one rank and one form of file."""

    model: str
    rank: int
    count: int
    base: str | None = None

    @property
    def names(self) -> list[str]:
        """What the adapters are called, from "a"."""
        return [chr(ord("a") + index) for index in range(self.count)]


BASE = "base-7gb"
KINDS = {
    "sdxl-r8": Kind("sdxl", 8, 2),
    "sdxl-r32": Kind("sdxl", 32, 2),
    "sdxl-r128": Kind("sdxl", 128, 2),
    "flux-r16": Kind("flux", 16, 3),
    "llama7b-r16": Kind("llama7b", 16, 9),
    "llama7gb-r16": Kind("llama7gb", 16, 2, BASE),
}
BASE_BLOCKS = 16
"""Half of Llama 2 7B's, which makes 7.0 GB in f16."""


def linear_layers(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Name, d_out and d_in of every linear layer."""
    layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    return {name: (part.out_features, part.in_features) for name, part in layers.items()}


def sdxl() -> list[Module]:
    """What kohya's sd-scripts train of SDXL by default.

    Those are all linear layers in `Transformer2DModel` of the UNet, by the original code's names, and in `CLIPAttention`
    and `CLIPMLP` of both text encoders.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        clip_l = CLIPTextModel(CLIPTextConfig())
        clip_g = CLIPTextModelWithProjection(
            CLIPTextConfig(
                hidden_size=1280,
                intermediate_size=5120,
                num_hidden_layers=32,
                num_attention_heads=20,
                projection_dim=1280,
                hidden_act="gelu",
            )
        )
    modules = [
        Module(flat("lora_unet", original_unet(name)), *shape)
        for name, shape in linear_layers(sdxl_unet()).items()
        if ".attentions." in name
    ]
    for prefix, encoder in (("lora_te1", clip_l), ("lora_te2", clip_g)):
        modules += [
            # Releases of transformers differ in whether CLIP's encoder stands in a `text_model`; kohya's names have it.
            Module(flat(prefix, "text_model." + name.removeprefix("text_model.")), *shape)
            for name, shape in linear_layers(encoder).items()
            if ".self_attn." in name or ".mlp." in name
        ]
    return modules


def sdxl_unet() -> nn.Module:
    """SDXL's UNet without weights, of the configuration of stable-diffusion-xl-base-1.0."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            attention_head_dim=[5, 10, 20],
            block_out_channels=[320, 640, 1280],
            cross_attention_dim=2048,
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            projection_class_embeddings_input_dim=2816,
            sample_size=128,
            transformer_layers_per_block=[1, 2, 10],
            use_linear_projection=True,
        )


def original_unet(name: str) -> str:
    """The original code's name of a layer in a transformer of diffusers' SDXL UNet.

    The original counts resnets (with the transformers behind them) and resamplers in one list: two resnets and a
    downsampler a level going down, three resnets going up.
    """
    if inner := re.fullmatch(r"mid_block\.attentions\.0\.(.*)", name):
        return f"middle_block.1.{inner[1]}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.*)", name)
    way, level, layer, inner = match[1], int(match[2]), int(match[3]), match[4]
    if way == "down":
        return f"input_blocks.{1 + 3 * level + layer}.1.{inner}"
    return f"output_blocks.{3 * level + layer}.1.{inner}"


FLUX_LAYERS = {
    "transformer_blocks": {
        "img_attn.proj": ["attn.to_out.0"],
        "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
        "img_mlp.0": ["ff.net.0.proj"],
        "img_mlp.2": ["ff.net.2"],
        "img_mod.lin": ["norm1.linear"],
        "txt_attn.proj": ["attn.to_add_out"],
        "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
        "txt_mlp.0": ["ff_context.net.0.proj"],
        "txt_mlp.2": ["ff_context.net.2"],
        "txt_mod.lin": ["norm1_context.linear"],
    },
    "single_transformer_blocks": {
        "linear1": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"],
        "linear2": ["proj_out"],
        "modulation.lin": ["norm.linear"],
    },
}
"""Layers of the original code by the list of diffusers' that their block is in, and diffusers' whose rows they stack."""


def flux() -> list[Module]:
    """What kohya's sd-scripts train of Flux by default: all linear layers of its blocks, by the original code's names."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        model = FluxTransformer2DModel(guidance_embeds=True)
    layers = linear_layers(model)
    modules = []
    for theirs, ours in (("transformer_blocks", "double_blocks"), ("single_transformer_blocks", "single_blocks")):
        for block in range(len(getattr(model, theirs))):
            for name, parts in FLUX_LAYERS[theirs].items():
                shapes = [layers.pop(f"{theirs}.{block}.{part}") for part in parts]
                (d_in,) = {d_in for _, d_in in shapes}
                d_out = sum(d_out for d_out, _ in shapes)
                modules.append(Module(flat("lora_unet", f"{ours}.{block}.{name}"), d_out, d_in))
    left = [name for name in layers if "transformer_blocks." in name]
    assert not left, f"layers of Flux's blocks that FLUX_LAYERS does not name: {left}"
    return modules


def llama7b(blocks: int = 32) -> list[Module]:
    """PEFT's `all-linear` on Llama 2 7B."""
    return [Module(name, *shape) for name, shape in linear_layers(llama(blocks)).items() if name != "lm_head"]


def llama(blocks: int) -> nn.Module:
    """Llama 2 7B without weights; its configuration is transformers' default."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(num_hidden_layers=blocks, dtype="float16"))


def flat(prefix: str, name: str) -> str:
    """A name of kohya's: dots have become underscores."""
    return f"{prefix}_{name.replace('.', '_')}"


MODELS = {"sdxl": sdxl, "flux": flux, "llama7b": llama7b, "llama7gb": lambda: llama7b(BASE_BLOCKS)}


def table(model: str) -> list[dict]:
    """Names and shapes in little room: `under` lists where the same layers are found, each `[end of name, d_out, d_in]`."""
    layers: dict[str, list[tuple[str, int, int]]] = {}
    for module in MODELS[model]():
        # The original UNet has a transformer in second place of its block: `input_blocks_4_1`.
        block, end = re.fullmatch(r"(.*(?:blocks?|layers)_\d+(?:_1)?)_(.*)", module.name).groups()
        layers.setdefault(block, []).append((end, module.d_out, module.d_in))
    blocks: dict[tuple, list[str]] = {}
    for block, inner in layers.items():
        blocks.setdefault(tuple(inner), []).append(block)
    return [{"under": under, "layers": [list(layer) for layer in inner]} for inner, under in blocks.items()]


def factors(module: Module, rank: int, draw: numpy.random.Generator) -> tuple[numpy.ndarray, numpy.ndarray]:
    """A (rank x d_in) as large as kohya and PEFT start it; B (d_out x rank), which starts at zero, a tenth as large."""
    a = draw.standard_normal((rank, module.d_in), numpy.float32) * (3 * module.d_in) ** -0.5
    b = draw.standard_normal((module.d_out, rank), numpy.float32) * (300 * module.d_out) ** -0.5
    return a.astype(numpy.float16), b.astype(numpy.float16)


def kohya_file(modules: list[Module], kind: Kind, draw: numpy.random.Generator, at: pathlib.Path) -> None:
    """One file as sd-scripts writes it; alpha is half the rank."""
    tensors = {}
    for module in modules:
        a, b = factors(module, kind.rank, draw)
        tensors[f"{module.name}.alpha"] = numpy.array(kind.rank / 2, numpy.float16)
        tensors[f"{module.name}.lora_down.weight"] = a
        tensors[f"{module.name}.lora_up.weight"] = b
    shown = {"ss_network_module": "networks.lora", "ss_network_dim": str(kind.rank), "ss_network_alpha": str(kind.rank / 2)}
    save_file(tensors, at, shown)


def peft_folder(modules: list[Module], kind: Kind, draw: numpy.random.Generator, at: pathlib.Path) -> None:
    """A folder as PEFT's `save_pretrained` writes it."""
    at.mkdir()
    tensors = {}
    for module in modules:
        a, b = factors(module, kind.rank, draw)
        tensors[f"base_model.model.{module.name}.lora_A.weight"] = a
        tensors[f"base_model.model.{module.name}.lora_B.weight"] = b
    save_file(tensors, at / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "base_model_name_or_path": "meta-llama/Llama-2-7b-hf",
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_alpha": 2 * kind.rank,
        "peft_type": "LORA",
        "r": kind.rank,
        "target_modules": sorted({module.name.rsplit(".", 1)[1] for module in modules}),
        "task_type": "CAUSAL_LM",
    }
    (at / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_adapters(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """All adapters of a kind."""
    kind = KINDS[name]
    flat_file = kind.model in ("sdxl", "flux")
    paths = [folder / name / (f"{letter}.safetensors" if flat_file else letter) for letter in kind.names]
    if all(path.exists() for path in paths):
        return paths
    modules = MODELS[kind.model]()
    for index, path in enumerate(paths):
        draw = numpy.random.default_rng([index, kind.rank])
        write = kohya_file if flat_file else peft_folder
        write_once(path, lambda at: write(modules, kind, draw, at))
    return paths


def write_base(folder: pathlib.Path) -> pathlib.Path:
    """The model that `llama7gb-r16` is for, in shards of about 1 GB."""
    path = folder / BASE
    write_once(path, lambda at: write_shards(llama(BASE_BLOCKS), at))
    return path


def write_shards(model: nn.Module, at: pathlib.Path, shard_bytes: int = 10**9) -> None:
    """config.json, weights and their index, one shard in memory at a time."""
    at.mkdir()
    model.config.save_pretrained(at)
    shards: list[list[str]] = [[]]
    room = shard_bytes
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        size = 2 * parameter.numel()
        if size > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    files = [f"model-{index:05}-of-{len(shards):05}.safetensors" for index in range(1, len(shards) + 1)]
    draw = numpy.random.default_rng(1)
    for file, names in zip(files, shards):
        save_file({name: random_weight(parameters[name].shape, draw) for name in names}, at / file, {"format": "pt"})
    total = sum(2 * parameter.numel() for parameter in parameters.values())
    weight_map = {name: file for file, names in zip(files, shards) for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (at / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def random_weight(shape: torch.Size, draw: numpy.random.Generator) -> numpy.ndarray:
    """A matrix as transformers starts Llama's, a norm's scale of ones."""
    if len(shape) == 1:
        return numpy.ones(shape, numpy.float16)
    return (draw.standard_normal(shape, numpy.float32) * 0.02).astype(numpy.float16)


def write_once(path: pathlib.Path, write) -> None:
    """Writes under another name first, so that what has the name is whole."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{path.name}")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    write(unfinished)
    unfinished.rename(path)


def files_of(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """The file, or those of the folder."""
    return path.rglob("*") if path.is_dir() else iter([path])


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=pathlib.Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(["all", *KINDS, BASE]))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--table", choices=["sdxl", "flux"])
    words = parser.parse_args()
    if words.table:
        rows = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in table(words.table))
        print(f"[\n{rows}\n]")
        return
    names = [name for name, kind in KINDS.items() if kind.base is None] if words.names == ["all"] else words.names
    if words.folder is None or not names or set(names) - {*KINDS, BASE}:
        parser.error(f"a folder and all or some of {', '.join([*KINDS, BASE])} are needed")
    found = {}
    for name in names:
        kind = KINDS.get(name)
        paths = write_adapters(words.folder, name) if kind else []
        base = write_base(words.folder) if name == BASE or (kind and kind.base) else None
        found[name] = {"adapters": list(map(str, paths)), "rank": kind and kind.rank, "base": base and str(base)}
        for path in [*paths, *([base] if base else [])] * (not words.json):
            size = sum(file.stat().st_size for file in files_of(path) if file.is_file())
            print(f"{path}  {size / 2**20:.1f} MiB")
    if words.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
