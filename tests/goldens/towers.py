"""Makes `tests/goldens/data/towers`: tiny CLIP, SigLIP and DINOv2 models, their towers by themselves, and what they must compute.

As in `vit.py`: files are written by transformers and PEFT, random numbers are numpy's, every output is those libraries'
own in f64 under the oracle's `exact()`, and merges are `language_oracle.py`'s. Sizes are odd on purpose: pixels that no
patch covers, one channel, another activation in each tower, positions interpolated up and down.

    python tests/goldens/towers.py [--out FOLDER]
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
from language_oracle import Options, Task, exact, merge, modules_in_order, peft_deltas
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
SAMPLES = 3
EAGER = dict(attn_implementation="eager")
LABELS = {"a": 4, "b": 3}

ATTENTION = ["q_proj", "v_proj"]
CLIP_LINEAR = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]

CLIP_VISION = dict(
    hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3, num_channels=1, image_size=20,
    patch_size=6, hidden_act="gelu", layer_norm_eps=1e-3, projection_dim=10,
)  # fmt: skip
CLIP_TEXT = dict(
    vocab_size=40, hidden_size=16, intermediate_size=28, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=12, hidden_act="quick_gelu", pad_token_id=37, bos_token_id=38, eos_token_id=37,
    projection_dim=10,
)  # fmt: skip
SIGLIP_VISION = dict(
    hidden_size=18, intermediate_size=22, num_hidden_layers=2, num_attention_heads=3, num_channels=3, image_size=14,
    patch_size=4, hidden_act="gelu_new", layer_norm_eps=1e-4,
)  # fmt: skip
SIGLIP_TEXT = dict(
    vocab_size=30, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=9, pad_token_id=1, bos_token_id=2, eos_token_id=3, projection_size=18,
)  # fmt: skip
DINOV2 = dict(
    hidden_size=20, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2, hidden_act="gelu_new", image_size=20,
    patch_size=5, layer_norm_eps=1e-4,
)  # fmt: skip


def clip_config(**more) -> transformers.CLIPConfig:
    return transformers.CLIPConfig(vision_config=CLIP_VISION, text_config=CLIP_TEXT, projection_dim=10, **more)


def siglip_config(**more) -> transformers.SiglipConfig:
    return transformers.SiglipConfig(vision_config=SIGLIP_VISION, text_config=SIGLIP_TEXT, **more)


def eager(model: type, config) -> nn.Module:
    return model._from_config(config, **EAGER)


def fill(model: nn.Module, name: str) -> nn.Module:
    """Weights under which attention is not uniform, and positions, norms and scales matter."""
    draw = rng(f"towers/{name}")
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.numel() == 1:
                value.copy_(normal(draw, [1], 0.3, 1.0).reshape(value.shape))
            elif "norm" in key:
                value.copy_(normal(draw, value.shape, 0.2, 1.0 if key.endswith("weight") else 0.0))
            elif key.endswith("lambda1"):
                value.copy_(normal(draw, value.shape, 0.3, 0.7))
            elif "class_embedding" in key or "cls_token" in key or "position" in key or "probe" in key or "token" in key:
                value.copy_(normal(draw, value.shape, 0.7))
            elif key.endswith("bias"):
                value.copy_(normal(draw, value.shape, 0.2))
            else:
                value.copy_(normal(draw, value.shape, 1.4 / value[0].numel() ** 0.5))
    return model.eval()


def pixels(name: str, channels: int, height: int, width: int) -> torch.Tensor:
    """(samples, channels, height, width): neighbours are alike, as in a picture."""
    rough = normal(rng(f"towers/{name}/pixels"), (SAMPLES, channels, height, width), 1.0)
    near = [torch.roll(rough, (y, x), (2, 3)) for y, x in ((0, 0), (0, 1), (1, 0), (1, 1))]
    return sum(near) / 2


def texts(name: str, vocabulary: int, longest: int, end: int) -> list[list[int]]:
    """Token ids below `vocabulary`; `end` is at the end, in one of them with another behind it."""
    draw = rng(f"towers/{name}/ids")
    found = []
    for at in range(SAMPLES):
        ids = draw.integers(4, vocabulary - 4, longest - 4 + at).tolist()
        found.append([*ids, end, *([end] if at == 1 else [])])
    return found


def write(tensors: dict[str, torch.Tensor], path: pathlib.Path) -> None:
    save_file({key: value.float().contiguous() for key, value in tensors.items()}, path)


@torch.no_grad()
def outputs(model: nn.Module, wanted: dict[str, str], samples: list[dict]) -> dict[str, torch.Tensor]:
    """What the model gives for each sample by itself, one after another: `wanted` maps our names to paths of attributes."""
    found = {name: [] for name in wanted}
    for sample in samples:
        given = {key: torch.tensor([value]) for key, value in sample.items()}
        with exact():
            out = model(**{key: value.double() if value.is_floating_point() else value for key, value in given.items()})
        for name, path in wanted.items():
            value = out
            for part in path.split("."):
                value = getattr(value, part)
            found[name].append(value[0].reshape(-1, value.shape[-1]))
    return {name: torch.cat(rows) for name, rows in found.items()}


def ragged(tag: str, ids: list[list[int]]) -> dict[str, torch.Tensor]:
    """Token ids of `SAMPLES` texts, and how many each has."""
    return {f"ids.{tag}": torch.tensor(sum(ids, [])), f"lengths.{tag}": torch.tensor([len(one) for one in ids])}


def samples_of(given: torch.Tensor | None, ids: list[list[int]] | None) -> list[dict]:
    samples = [{} for _ in range(SAMPLES)]
    for at, sample in enumerate(samples):
        if given is not None:
            sample["pixel_values"] = given[at].tolist()
        if ids is not None:
            sample["input_ids"] = ids[at]
    return samples


def write_adapter(model: nn.Module, folder: pathlib.Path, base: str, **how) -> nn.Module:
    """An adapter of `model`, which is changed; gives the model under it, in f64."""
    peft = get_peft_model(model, LoraConfig(**how)).eval()
    draw = rng(f"towers/{base}/{folder.name}")
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
    said = json.loads(path.read_text()) | {"base_model_name_or_path": f"towers/{base}"}
    path.write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
    return peft.double().get_base_model()


def respelled(folder: pathlib.Path, other: pathlib.Path, rename) -> None:
    """The same adapter under other names of its modules."""
    other.mkdir()
    tensors, modules = {}, set()
    for key, value in load_file(folder / "adapter_model.safetensors").items():
        path, _, factor = key.removeprefix("base_model.model.").partition(".lora_")
        tensors[f"base_model.model.{rename(path)}.lora_{factor}" if factor else key] = value
        modules.update([rename(path)] if factor else [])
    save_file(tensors, other / "adapter_model.safetensors", {"format": "pt"})
    said = json.loads((folder / "adapter_config.json").read_text()) | {"target_modules": sorted(modules)}
    (other / "adapter_config.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


def spelled(model: nn.Module, folder: pathlib.Path, like: pathlib.Path, rename=lambda key: key) -> None:
    """The model with its own names, release 5's, as a script writes them that saves a `state_dict` itself, or with others."""
    folder.mkdir()
    shutil.copy(like / "config.json", folder)
    named = {rename(key): value.clone() for key, value in model.state_dict().items()}
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    assert set(named) != set(load_file(like / "model.safetensors")), "that is the spelling which is there"


def merges(opened, tasks: list[Task], out: pathlib.Path) -> None:
    """`merged.safetensors` and the modules in order."""
    exactly, single = opened().double(), opened()
    merged, deviation = {}, {}
    for variant, options in {"sweep": Options(), "iterate3": Options(schedule="iterate", max_iter=3)}.items():
        deltas, rough = merge(exactly, tasks, options), merge(single, tasks, options)
        deviation[variant] = max(float((rough[name] - delta).norm() / delta.norm()) for name, delta in deltas.items())
        merged |= {f"{variant}.{name}": delta for name, delta in deltas.items()}
    write(merged, out / "merged.safetensors")
    modules = modules_in_order(exactly, sorted(set().union(*(task.deltas for task in tasks))), tasks[0].inputs[0])
    write_json(out / "facts.json", rounded({"modules": modules, "f32_deviation": deviation}))


def two_towers(out: pathlib.Path, family: str) -> None:
    """A model of pictures and texts, and two adapters of it; a classifier of pictures, and an adapter with one."""
    clip = family == "clip"
    config = clip_config() if clip else siglip_config()
    model_class = transformers.CLIPModel if clip else transformers.SiglipModel
    classifier = transformers.CLIPForImageClassification if clip else transformers.SiglipForImageClassification
    vision, text = config.vision_config, config.text_config
    folder = out / "base"
    write_model(fill(eager(model_class, config), family), folder)

    def opened() -> nn.Module:
        return model_class.from_pretrained(folder, **EAGER).eval()

    expected, tasks = {}, []
    for tag in "ab":
        given = pixels(f"{family}/{tag}", vision.num_channels, vision.image_size, vision.image_size)
        ids = texts(f"{family}/{tag}", text.vocab_size, text.max_position_embeddings - 1, text.eos_token_id)
        expected |= {f"pixels.{tag}": given} | ragged(tag, ids)
        if not clip:
            ids = [one + [text.pad_token_id] * (text.max_position_embeddings - len(one)) for one in ids]
        how = dict(r=2, lora_alpha=3, target_modules=ATTENTION)
        if tag == "b":
            projections = "visual_projection|text_projection" if clip else "text_model.head|vision_model.head.mlp.fc[12]"
            inside = r"(vision|text)_model\.encoder\.layers\.\d+\.(self_attn|mlp)\.(" + "|".join(CLIP_LINEAR) + ")"
            how = dict(r=3, lora_alpha=4, target_modules=f"{inside}|{projections}", use_rslora=True)
        adapted = write_adapter(opened(), out / tag, f"{family}/base", **how)
        samples = samples_of(given, ids)
        wanted = {
            "image_embeds": "vision_model_output.pooler_output",
            "text_embeds": "text_model_output.pooler_output",
            "text": "text_model_output.last_hidden_state",
        }
        for variant, model in {"base": opened().double(), "own": adapted}.items():
            found = outputs(model, wanted, samples)
            expected |= {f"{tag}.{variant}.{name}": value for name, value in found.items()}
            # Of all pictures with all texts.
            cosines = [nn.functional.normalize(found[f"{side}_embeds"], dim=-1) for side in ("image", "text")]
            similar = cosines[0] @ cosines[1].T * model.logit_scale.exp()
            expected[f"{tag}.{variant}.logits_per_image"] = similar if clip else similar + model.logit_bias
        tasks.append(Task(tag, peft_deltas(opened().double(), out / tag), samples))

    # An adapter of a classifier over the whole model's file, and a classifier's own file.
    given = expected["pixels.a"]
    torch.manual_seed(0)
    fresh = classifier.from_pretrained(folder, num_labels=4, **EAGER).eval()
    how = dict(r=2, lora_alpha=4, target_modules=r"vision_model\.encoder.*\.(q_proj|fc1)", modules_to_save=["classifier"])
    adapted = write_adapter(fresh, out / "classifying", f"{family}/base", **how)
    expected |= outputs(adapted, {"classifying.logits": "logits"}, samples_of(given, None))
    more = dict(id2label={at: f"label {at}" for at in range(5)}, label2id={f"label {at}": at for at in range(5)})
    model = fill(eager(classifier, clip_config(**more) if clip else siglip_config(**more)), f"{family}/classifier")
    write_model(model, out / "classifier")
    expected |= outputs(model.double(), {"classifier.logits": "logits"}, samples_of(given, None))
    write(expected, out / "expected.safetensors")
    merges(opened, tasks, out)


def one_tower(out: pathlib.Path, family: str, side: str) -> None:
    """A tower by itself, in both spellings, with two adapters in both; with a projection where there is such a class."""
    clip = family == "clip"
    name = f"{family}_{side}_model"
    of_pictures = side == "vision"
    settings = {
        ("clip", "vision"): CLIP_VISION, ("clip", "text"): CLIP_TEXT | {"eos_token_id": 2},
        ("siglip", "vision"): SIGLIP_VISION, ("siglip", "text"): SIGLIP_TEXT,
    }[family, side]  # fmt: skip
    kind = f"{'CLIP' if clip else 'Siglip'}{side.capitalize()}"
    config = getattr(transformers, f"{kind}Config")(**settings)
    model_class = getattr(transformers, f"{kind}Model")
    folder = out / "base"
    write_model(fill(eager(model_class, config), name), folder)

    def opened() -> nn.Module:
        return model_class.from_pretrained(folder, **EAGER).eval()

    spelled(opened(), out / "base-v4", folder, lambda key: f"{side}_model.{key}")
    expected, tasks = {}, []
    wanted = {"rows": "last_hidden_state", "pooled": "pooler_output"}
    projected = getattr(transformers, f"{kind}ModelWithProjection", None)
    for tag in "ab":
        given = ids = padded = None
        if of_pictures:
            given = pixels(f"{name}/{tag}", config.num_channels, config.image_size, config.image_size)
            expected[f"pixels.{tag}"] = given
        else:
            # Where the largest id is the end, as the configuration's 2 says that it is.
            end = config.vocab_size - 1 if clip else config.eos_token_id
            padded = ids = texts(f"{name}/{tag}", config.vocab_size, config.max_position_embeddings - 1, end)
            if not clip:
                padded = [one + [config.pad_token_id] * (config.max_position_embeddings - len(one)) for one in ids]
            expected |= ragged(tag, ids)
        samples = samples_of(given, padded)
        targets = ATTENTION if tag == "a" else r".*layers\.\d+\.(self_attn|mlp)\.(" + "|".join(CLIP_LINEAR) + ")"
        adapted = write_adapter(opened(), out / tag, f"{name}/base", r=2, lora_alpha=3, target_modules=targets)
        respelled(out / tag, out / f"{tag}-v4", lambda path: f"{side}_model.{path}")
        for variant, model in {"base": opened().double(), "own": adapted}.items():
            found = outputs(model, wanted, samples)
            expected |= {f"{tag}.{variant}.{key}": value for key, value in found.items()}
        tasks.append(Task(tag, peft_deltas(opened().double(), out / tag), samples))
    if projected:
        model = fill(eager(projected, config), f"{name}/projected")
        write_model(model, out / "projected")
        found = outputs(model.double(), {"projected": "image_embeds" if of_pictures else "text_embeds"}, samples)
        expected |= found
    write(expected, out / "expected.safetensors")
    merges(opened, tasks, out)


DINOV2_OLD = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


def dinov2_old(path: str) -> str:
    for new, old in DINOV2_OLD.items():
        path = re.sub(rf"{re.escape(new)}$", old, path)
    return path


def dinov2(out: pathlib.Path) -> None:
    """A classifier over pictures of several sizes, and a bare model with gated layers and no biases of q, k and v."""
    more = dict(id2label={at: f"label {at}" for at in range(5)}, label2id={f"label {at}": at for at in range(5)})
    config = transformers.Dinov2Config(**DINOV2, **more)
    folder = out / "base"
    write_model(fill(eager(transformers.Dinov2ForImageClassification, config), "dinov2"), folder)

    def opened(adapter: str | None = None) -> nn.Module:
        torch.manual_seed(0)
        more = {"num_labels": LABELS[adapter], "ignore_mismatched_sizes": True} if adapter else {}
        return transformers.Dinov2ForImageClassification.from_pretrained(folder, **EAGER, **more).eval()

    spelled(opened(), out / "base-v5", folder)
    expected, tasks = {}, []
    sizes = {"own": (20, 20), "a": (20, 20), "b": (25, 37), "small": (10, 16), "square": (32, 32), "long": (10, 40)}
    for tag, size in sizes.items():
        expected[f"pixels.{tag}"] = given = pixels(f"dinov2/{tag}", 3, *size)
        model = opened().double()
        found = outputs(model, {"logits": "logits"}, samples_of(given, None))
        found |= outputs(model.dinov2, {"rows": "last_hidden_state"}, samples_of(given, None))
        expected |= {f"{tag}.base.{key}": value for key, value in found.items()}
    for tag in "ab":
        targets = ATTENTION if tag == "a" else ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]
        samples = samples_of(expected[f"pixels.{tag}"], None)
        how = dict(r=2, lora_alpha=3, target_modules=targets, modules_to_save=["classifier"])
        adapted = write_adapter(opened(tag), out / tag, "dinov2/base", **how)
        expected |= outputs(adapted, {f"{tag}.own.logits": "logits"}, samples)
        respelled(out / tag, out / f"{tag}-v4", dinov2_old)
        tasks.append(Task(tag, peft_deltas(opened(tag).double(), out / tag), samples))

    config = transformers.Dinov2Config(**DINOV2 | {"mlp_ratio": 3, "use_swiglu_ffn": True, "qkv_bias": False})
    write_model(fill(eager(transformers.Dinov2Model, config), "dinov2/gated"), out / "gated")
    model = transformers.Dinov2Model.from_pretrained(out / "gated", **EAGER).eval()
    spelled(model, out / "gated-v5", out / "gated")
    expected |= outputs(model.double(), {"gated.rows": "last_hidden_state"}, samples_of(expected["pixels.b"], None))
    write(expected, out / "expected.safetensors")
    merges(opened, tasks, out)


def generate(out: pathlib.Path) -> None:
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    for family in ("clip", "siglip"):
        (out / family).mkdir(parents=True)
        two_towers(out / family, family)
        for side in ("vision", "text"):
            (out / f"{family}_{side}_model").mkdir()
            one_tower(out / f"{family}_{side}_model", family, side)
    (out / "dinov2").mkdir()
    dinov2(out / "dinov2")


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--out", type=pathlib.Path, default=HERE / "data" / "towers")
    generate(arguments.parse_args().out)
