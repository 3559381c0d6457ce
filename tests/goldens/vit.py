"""Makes `tests/goldens/data/vit`: tiny vision transformers with settings that few checkpoints have, and what they must compute.

As in `families.py`: files are written by transformers and PEFT, random numbers are numpy's, every output is those
libraries' own in f64 under the oracle's `exact()`, and merges are `language_oracle.py`'s.

    python tests/goldens/vit.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import shutil

import torch
import transformers
from generate import normal, rng, rounded, tidy, write_json, write_model
from language_oracle import Options, Task, exact, merge, modules_in_order, patched, peft_deltas
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTModel

HERE = pathlib.Path(__file__).resolve().parent
SAMPLES = 3
LABELS = {"a": 4, "b": 2}
ADAPTERS = {
    "a": dict(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj"]),
    "b": dict(
        r=3, lora_alpha=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"],
        rank_pattern={"layers.1.mlp.fc1": 1}, use_rslora=True,
    ),
}  # fmt: skip
# transformers 4's names of the modules.
OLD_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def classifier() -> ViTForImageClassification:
    """A wide picture, no biases of query, key and value, a norm's eps that shows."""
    labels = {at: f"label {at}" for at in range(5)}
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=20, num_hidden_layers=2, num_attention_heads=4, intermediate_size=28, hidden_act="quick_gelu",
            layer_norm_eps=1e-3, image_size=[24, 40], patch_size=8, qkv_bias=False, id2label=labels,
            label2id={name: at for at, name in labels.items()}, attn_implementation="eager",
        )
    )  # fmt: skip


def pooled() -> ViTModel:
    """Without `vit.` before its names; one channel, patches that are no squares, a pooler of another width."""
    return ViTModel(
        ViTConfig(
            hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=20, hidden_act="gelu_new",
            image_size=[12, 16], patch_size=[6, 4], num_channels=1, pooler_output_size=7, attn_implementation="eager",
        )
    )  # fmt: skip


def fill(model: nn.Module, name: str) -> nn.Module:
    """Weights under which attention is not uniform, positions and norms matter and labels differ."""
    draw = rng(f"vit/{name}")
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "layernorm" in key:
                value.copy_(normal(draw, value.shape, 0.2, 1.0 if key.endswith("weight") else 0.0))
            elif key.endswith("bias"):
                value.copy_(normal(draw, value.shape, 0.2))
            elif value.dim() == 3:
                value.copy_(normal(draw, value.shape, 0.7))
            else:
                value.copy_(normal(draw, value.shape, 1.4 / value[0].numel() ** 0.5))
    return model.eval()


def pixels(model: nn.Module, name: str) -> torch.Tensor:
    """(samples, channels, height, width): neighbours are alike, as in a picture."""
    config = model.config
    rough = normal(rng(f"vit/{name}/pixels"), (SAMPLES, config.num_channels, *config.image_size), 1.0)
    near = [torch.roll(rough, (y, x), (2, 3)) for y, x in ((0, 0), (0, 1), (1, 0), (1, 1))]
    return sum(near) / 2


@torch.no_grad()
def states(model: nn.Module, given: torch.Tensor) -> dict[str, torch.Tensor]:
    """`hidden.<k>` (samples, tokens, width): what the first layer reads, what each layer gives, and behind the last norm."""
    body, found = model.base_model, {}
    hooks = [body.layers[0].register_forward_pre_hook(lambda _, args: found.update({"hidden.0": args[0]}))]
    for at, module in enumerate([*body.layers, body.layernorm]):
        hooks.append(module.register_forward_hook(lambda _m, _a, out, at=at: found.update({f"hidden.{at + 1}": out})))
    with exact():
        out = model(given.double())
    for hook in hooks:
        hook.remove()
    return found | ({"logits": out.logits} if hasattr(model, "classifier") else {"pooled": out.pooler_output})


def write(tensors: dict[str, torch.Tensor], path: pathlib.Path) -> None:
    save_file({key: value.float().contiguous() for key, value in tensors.items()}, path)


def old_name(module: str) -> str:
    for new, old in OLD_NAMES.items():
        module = re.sub(rf"layers\.(\d+)\.{re.escape(new)}$", rf"encoder.layer.\1.{old}", module)
    return module


def opened(base: pathlib.Path, adapter: str | None = None) -> ViTForImageClassification:
    """The base, with a fresh head as a person starts to train an adapter where one is named."""
    torch.manual_seed(0)
    more = {"num_labels": LABELS[adapter], "ignore_mismatched_sizes": True} if adapter else {}
    return ViTForImageClassification.from_pretrained(base, attn_implementation="eager", **more).eval()


def write_adapter(base: pathlib.Path, folder: pathlib.Path) -> nn.Module:
    """An adapter with a head of its own, in both spellings of its modules; gives the model under it, in f64."""
    name = folder.name
    peft = get_peft_model(opened(base, name), LoraConfig(modules_to_save=["classifier"], **ADAPTERS[name])).eval()
    draw = rng(f"vit/{name}")
    with torch.no_grad():
        for key, value in sorted(peft.named_parameters()):
            if "lora_A" in key:
                value.copy_(normal(draw, value.shape, value.shape[1] ** -0.5))
            elif "lora_B" in key:
                value.copy_(normal(draw, value.shape, 0.25))
            elif "modules_to_save" in key:
                value.copy_(normal(draw, value.shape, 0.5))
    peft.save_pretrained(folder)
    tidy(folder)
    path = folder / "adapter_config.json"
    said = json.loads(path.read_text()) | {"base_model_name_or_path": "vit/base"}
    path.write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")

    old = folder.with_name(f"{name}-v4")
    old.mkdir()
    tensors, modules = {}, set()
    for key, value in load_file(folder / "adapter_model.safetensors").items():
        module, dot, factor = key.partition(".lora_")
        tensors[old_name(module) + dot + factor] = value
        if dot:
            modules.add(old_name(module).removeprefix("base_model.model."))
    save_file(tensors, old / "adapter_model.safetensors", {"format": "pt"})
    patterns = {old_name(pattern): rank for pattern, rank in said["rank_pattern"].items()}
    said |= {"target_modules": sorted(modules), "rank_pattern": patterns}
    (old / "adapter_config.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
    return peft.double().get_base_model()


def classifiers(out: pathlib.Path) -> None:
    folder = out / "base"
    write_model(fill(classifier(), "base"), folder)
    # As transformers 5 names its modules, which a training script that saves a `state_dict` itself writes down.
    model = opened(folder)
    (out / "base-v5").mkdir()
    shutil.copy(folder / "config.json", out / "base-v5")
    save_file(model.state_dict(), out / "base-v5" / "model.safetensors", {"format": "pt"})

    exactly = opened(folder).double()
    given = {name: pixels(model, name) for name in ADAPTERS}
    expected = {f"pixels.{name}": value for name, value in given.items()}
    expected |= states(exactly, given["b"])
    tasks = []
    for name in ADAPTERS:
        adapted = write_adapter(folder, out / name)
        expected[f"logits.{name}"] = states(adapted, given["b"])["logits"]
        deltas = peft_deltas(opened(folder, name).double(), out / name)
        tasks.append(Task(name, deltas, [{"pixel_values": one.tolist()} for one in given[name]]))
    write(expected, out / "expected.safetensors")

    merged, deviation = {}, {}
    for variant, options in {"sweep": Options(), "iterate3": Options(schedule="iterate", max_iter=3)}.items():
        deltas, rough = merge(exactly, tasks, options), merge(model, tasks, options)
        deviation[variant] = max(float((rough[name] - delta).norm() / delta.norm()) for name, delta in deltas.items())
        merged |= {f"{variant}.{name}": delta for name, delta in deltas.items()}
        if variant == "sweep":
            with patched(exactly.base_model, deltas):
                merged["logits.sweep"] = states(exactly, given["b"])["logits"]
    write(merged, out / "merged.safetensors")
    modules = modules_in_order(exactly, sorted(tasks[1].deltas), tasks[1].inputs[0])
    write_json(out / "facts.json", rounded({"modules": modules, "f32_deviation": deviation}))


def poolers(out: pathlib.Path) -> None:
    folder = out / "pooler"
    model = fill(pooled(), "pooler")
    write_model(model, folder)
    given = pixels(model, "pooler")
    write({"pixels": given} | states(model.double(), given), folder / "expected.safetensors")


def generate(out: pathlib.Path) -> None:
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    classifiers(out)
    poolers(out)


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--out", type=pathlib.Path, default=HERE / "data" / "vit")
    generate(arguments.parse_args().out)
