"""Makes the golden files of `tests/goldens/data`: tiny BERT models, adapters on them, and what they must compute.

Models and adapters are written by transformers' and PEFT's own `save_pretrained`, so that the files have the true
layout and key names; outputs are those libraries' own, in f64. Random numbers come from numpy's PCG64, whose stream is
fixed, not from PyTorch, whose stream is not: regenerating must give the same files (`tests/peers` checks it).

    python tests/goldens/generate.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import copy
import json
import pathlib
import shutil
import zlib

import numpy as np
import torch
from oracle import Batch, Options, Task, encoder_of, iteris, linear_average, peft_deltas, task_arithmetic
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertForSequenceClassification, BertModel

HERE = pathlib.Path(__file__).resolve().parent
OTHERS = ("blip", "convolutions", "families", "features", "images", "methods", "pictures", "towers", "vit")
"""Folders of the other scripts, beside what this one makes."""

VOCAB, MAX_POSITIONS, PAD = 97, 64, 0
ACTIVATIONS = [
    "gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "gelu_accurate", "quick_gelu",
    "relu", "relu2", "relu6", "silu", "swish", "tanh", "sigmoid", "mish", "linear",
]  # fmt: skip


def rng(name: str) -> np.random.Generator:
    """A stream of its own for each file, so that adding one golden leaves the others as they are."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def normal(draw: np.random.Generator, shape, scale: float, mean: float = 0.0) -> torch.Tensor:
    return torch.from_numpy((mean + scale * draw.standard_normal(tuple(shape))).astype(np.float32))


def fill(model: nn.Module, name: str) -> nn.Module:
    """Weights under which attention is not uniform and activations are not linear, unlike BERT's own 0.02."""
    draw = rng(name)
    done = set()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.data_ptr() in done:
                continue
            done.add(value.data_ptr())
            if "LayerNorm" in key:
                value.copy_(normal(draw, value.shape, 0.2, 1.0 if key.endswith("weight") else 0.0))
            elif key.endswith("bias"):
                value.copy_(normal(draw, value.shape, 0.2))
            elif "embeddings" in key:
                value.copy_(normal(draw, value.shape, 0.7))
            else:
                value.copy_(normal(draw, value.shape, 1.4 / value.shape[1] ** 0.5))
    return model.eval()


def config(hidden: int, layers: int, heads: int, intermediate: int, labels: int = 3, **more) -> BertConfig:
    return BertConfig(
        vocab_size=VOCAB, max_position_embeddings=MAX_POSITIONS, hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, intermediate_size=intermediate, pad_token_id=PAD,
        id2label={i: f"label {i}" for i in range(labels)}, label2id={f"label {i}": i for i in range(labels)},
        attn_implementation="eager", **more,
    )  # fmt: skip


def samples(name: str, count: int, shortest: int = 3, longest: int = 14) -> tuple[list[list[int]], list[list[int]]]:
    """Ragged token ids and token types: `[CLS]`-like first token, two segments."""
    draw = rng(name + "/samples")
    ids, types = [], []
    for length in draw.integers(shortest, longest + 1, count):
        ids.append([1, *draw.integers(3, VOCAB, length - 2).tolist(), 2])
        first = int(draw.integers(1, length + 1))
        types.append([0] * first + [1] * (int(length) - first))
    return ids, types


def write_json(path: pathlib.Path, value) -> None:
    """One line for each innermost list: short files that still diff."""
    text = json.dumps(value, indent=1)
    path.write_text(compact(text) + "\n")


def compact(text: str) -> str:
    out, depth_list = [], 0
    for line in text.split("\n"):
        stripped = line.strip()
        if depth_list:
            out[-1] += ("" if out[-1].endswith("[") or stripped.startswith("]") else " ") + stripped
        else:
            out.append(line)
        if stripped.endswith("[") and depth_list == 0:
            depth_list = 1
        elif stripped in ("]", "],") and depth_list:
            depth_list = 0
        elif stripped.endswith(("[", "{")) and depth_list:
            # Not an innermost list after all: give the line back its break.
            last = out.pop()
            out.append(last[: -len(stripped)].rstrip())
            out.append(line)
            depth_list = 1 if stripped.endswith("[") else 0
    return "\n".join(out)


def tidy(folder: pathlib.Path) -> None:
    """Takes out what depends on the machine or the day: the model card, the order of PEFT's sets, empty settings."""
    (folder / "README.md").unlink(missing_ok=True)
    for path in folder.glob("*.json"):
        value = json.loads(path.read_text())
        if path.name == "adapter_config.json":
            for key in ("target_modules", "modules_to_save"):
                if isinstance(value.get(key), list):
                    value[key] = sorted(value[key])
        path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def rows(batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
    """The rows of real tokens, sample after sample."""
    return hidden[batch.attention_mask.bool()].float().contiguous()


def expectation(model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    """Hidden states of the real tokens (tokens, hidden); where the model has them pooled (samples, hidden) and logits."""
    model = copy.deepcopy(model).double().eval()
    encoder = encoder_of(model)
    out = batch(encoder)
    wanted = {"hidden": rows(batch, out.last_hidden_state)}
    if getattr(encoder, "pooler", None) is not None:
        wanted["pooled"] = out.pooler_output.float()
    if hasattr(model, "classifier"):
        wanted["logits"] = batch(model).logits.float()
    return {key: value.contiguous() for key, value in wanted.items()}


def write_model(model: nn.Module, folder: pathlib.Path, **how) -> None:
    model.save_pretrained(folder, **how)
    tidy(folder)


def write_variant(out: pathlib.Path, name: str, model: nn.Module, dtype: torch.dtype | None = None, **how) -> None:
    """`config.json` and weights as transformers saves them, `inputs.json`, `expected.safetensors`."""
    folder = out / name
    fill(model, name)
    if dtype:
        model = model.to(dtype)
    write_model(model, folder, **how)
    ids, types = samples(name, 5)
    if getattr(model.config, "type_vocab_size") == 1:
        types = [[0] * len(row) for row in ids]
    save_file(expectation(model, Batch.of(ids, types, PAD)), folder / "expected.safetensors")
    write_json(folder / "inputs.json", {"ids": ids, "type_ids": types})


def models(out: pathlib.Path) -> None:
    """One folder for each way in which a BERT checkpoint is found in the wild."""
    write_variant(out, "plain", BertModel(config(36, 2, 3, 52)))
    write_variant(out, "classifier", BertForSequenceClassification(config(28, 2, 4, 44, layer_norm_eps=1e-3)))
    write_variant(out, "sharded", BertModel(config(16, 2, 4, 24)), max_shard_size="8KB")
    write_variant(out, "f16", BertForSequenceClassification(config(24, 2, 4, 40)), torch.float16)
    write_variant(out, "bf16", BertModel(config(24, 2, 4, 40)), torch.bfloat16)
    write_variant(out, "masked-lm", BertForMaskedLM(config(16, 1, 2, 24)))
    write_variant(out, "one-type", BertModel(config(16, 1, 2, 24, type_vocab_size=1)))
    legacy(out)
    activations(out)


def legacy(out: pathlib.Path) -> None:
    """The names of checkpoints converted from TensorFlow: `LayerNorm.gamma`, `.beta`, `position_ids`, both pretraining heads."""
    write_variant(out, "legacy", BertForPreTraining(config(16, 1, 2, 24)))
    path = out / "legacy" / "model.safetensors"
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in load_file(path).items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(MAX_POSITIONS)[None]
    save_file(old, path, {"format": "pt"})


def activations(out: pathlib.Path) -> None:
    """One model, and in `expected.safetensors` its `hidden.<hidden_act>` for each activation put into its config."""
    folder = out / "activations"
    settings = config(16, 1, 2, 24)
    model = fill(BertModel(settings, add_pooling_layer=False), "activations")
    with torch.no_grad():
        # Far enough from zero that relu6 meets its six.
        model.encoder.layer[0].intermediate.dense.weight.mul_(4)
    write_model(model, folder)
    ids, types = samples("activations", 3)
    wanted = {}
    for name in ACTIVATIONS:
        other = BertModel(config(16, 1, 2, 24, hidden_act=name), add_pooling_layer=False)
        other.load_state_dict(model.state_dict())
        wanted[f"hidden.{name}"] = expectation(other, Batch.of(ids, types, PAD))["hidden"]
    save_file(wanted, folder / "expected.safetensors")
    write_json(folder / "inputs.json", {"ids": ids, "type_ids": types})


ADAPTERS = {
    "qv": dict(r=4, lora_alpha=8, target_modules=["query", "value"]),
    "all": dict(
        r=3, lora_alpha=6, use_rslora=True,
        target_modules=["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"],
        rank_pattern={"layer.0.attention.self.query": 5, "intermediate.dense": 2, "^bert.encoder.layer.1.output.dense": 4},
        alpha_pattern={"attention.self.value": 11, "layer.1.attention.output.dense": 2},
    ),
    "dense": dict(r=2, lora_alpha=5, target_modules=["attention.output.dense", "output.dense"]),
    "regex": dict(r=2, lora_alpha=4, target_modules=r".*layer\.1\.attention\.self\.(query|key)"),
    # PEFT's own choice of every linear layer: the pooler is one.
    "all-linear": dict(r=2, lora_alpha=4, target_modules="all-linear"),
}  # fmt: skip
"""Adapters on the base of `adapters/base`, as `LoraConfig` takes them."""

LABELS = {"qv": 3, "all": 5, "dense": 2, "regex": 4, "all-linear": 3}
"""Labels of each adapter's own classifier: a head's size is the adapter's affair, not the base's."""


def fill_adapter(model: PeftModel, name: str) -> None:
    """B is zero as PEFT starts it: give it, and the heads, weights that matter beside the base's."""
    draw = rng("adapter/" + name)
    with torch.no_grad():
        for key, value in sorted(model.named_parameters()):
            if "lora_A" in key:
                value.copy_(normal(draw, value.shape, value.shape[1] ** -0.5))
            elif "lora_B" in key:
                value.copy_(normal(draw, value.shape, 0.25))
            elif "modules_to_save" in key:
                value.copy_(normal(draw, value.shape, 0.5))


def classifier(base: pathlib.Path, labels: int) -> nn.Module:
    """The base with a fresh head of that many labels, as a person starts to train an adapter."""
    model = BertForSequenceClassification.from_pretrained(
        base, num_labels=labels, attn_implementation="eager", ignore_mismatched_sizes=True
    )
    return model.eval()


def adapters(out: pathlib.Path) -> None:
    """`adapters/base`, adapters on it, and logits under each; then `adapters/merged`: merges of them."""
    folder = out / "adapters"
    base = folder / "base"
    write_model(fill(BertModel(config(16, 2, 4, 24)), "adapters"), base)
    for name, how in ADAPTERS.items():
        torch.manual_seed(0)
        peft = get_peft_model(classifier(base, LABELS[name]), LoraConfig(task_type="SEQ_CLS", **how)).eval()
        fill_adapter(peft, name)
        peft.save_pretrained(folder / name)
        write_adapter_inputs(folder, name, peft)
    # The same base without a head, so without `bert.` in the module names.
    peft = get_peft_model(
        BertModel.from_pretrained(base, attn_implementation="eager").eval(),
        LoraConfig(task_type="FEATURE_EXTRACTION", r=3, lora_alpha=3, target_modules=["query", "output.dense"]),
    ).eval()
    fill_adapter(peft, "features")
    peft.save_pretrained(folder / "features")
    write_adapter_inputs(folder, "features", peft)


def write_adapter_inputs(folder: pathlib.Path, name: str, peft: PeftModel) -> None:
    tidy(folder / name)
    path = folder / name / "adapter_config.json"
    settings = json.loads(path.read_text()) | {"base_model_name_or_path": "adapters/base"}
    path.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
    ids, types = samples("adapters/" + name, 12)
    if name == "all":
        types = None
    save_file(expectation(peft.get_base_model(), Batch.of(ids, types, PAD)), folder / name / "expected.safetensors")
    write_json(folder / name / "inputs.json", {"ids": ids, "type_ids": types})


PAIRS = {
    "qv+all": ["qv", "all"],
    "qv+dense": ["qv", "dense"],
    "all+regex+features": ["all", "regex", "features"],
    "all": ["all"],
    "qv+all-linear": ["qv", "all-linear"],
}


def cases() -> list[dict]:
    """Every option moved from the default by itself, and the combinations where options meet."""

    def case(pair: str, **options) -> dict:
        weights = options.pop("weights", [1.0] * len(PAIRS[pair]))
        return {"adapters": PAIRS[pair], "weights": weights, "options": options}

    found = []
    for target in ("delta", "full"):
        for schedule in ({"schedule": "sweep"}, {"schedule": "iterate", "max_iter": 1}, {"schedule": "iterate", "max_iter": 2}):  # fmt: skip
            found.append(case("qv+all", target=target, **schedule))
        found.append(case("qv+all", target=target, adaptive_weights=False))
        found.append(case("qv+all", target=target, padding="include"))
        found.append(case("qv+all", target=target, weights=[1.0, 2.0]))
        found.append(case("qv+all", target=target, weights=[1.0, 2.0], adaptive_weights=False, padding="include", schedule="iterate", max_iter=2))  # fmt: skip
        found.append(case("qv+dense", target=target))
        found.append(case("all", target=target))
    found.append(case("qv+all", alpha1=1e-3, alpha2=1e-2))
    found.append(case("qv+dense", schedule="iterate", max_iter=2))
    found.append(case("all+regex+features"))
    found.append(case("all+regex+features", schedule="iterate", max_iter=1, weights=[0.5, 1.0, 2.0]))
    found.append({"adapters": PAIRS["qv+all"], "weights": [1.0, 1.0], "method": "average"})
    found.append({"adapters": PAIRS["qv+all"], "weights": [1.0, 2.0], "method": "average"})
    found.append({"adapters": PAIRS["qv+all"], "weights": [1.0, 2.0], "method": "task_arithmetic", "scale": 0.7})
    found.append(case("qv+all-linear"))
    found.append(case("qv+all-linear", target="full", schedule="iterate", max_iter=2))
    return found


def merges(out: pathlib.Path) -> None:
    """`adapters/merged`: `cases.json` names the cases, `cases.safetensors` holds `<case>/<module>` deltas (d_out, d_in)."""
    folder = out / "adapters"
    exact = BertModel.from_pretrained(folder / "base", attn_implementation="eager").eval().double()
    single = BertModel.from_pretrained(folder / "base", attn_implementation="eager").eval()
    tasks = {}
    for name in [*ADAPTERS, "features"]:
        model = single if name == "features" else classifier(folder / "base", LABELS[name])
        inputs = json.loads((folder / name / "inputs.json").read_text())
        batch = Batch.of(inputs["ids"], inputs["type_ids"], PAD)
        tasks[name] = (batch, peft_deltas(copy.deepcopy(model), folder / name))
    found, tensors = [], {}
    for number, case in enumerate(cases()):
        chosen = [Task(*tasks[name], weight) for name, weight in zip(case["adapters"], case["weights"])]
        entry = {"key": f"{number:02}", "method": "iteris", **case}
        if entry["method"] == "iteris":
            options = Options(**case["options"])
            merged = iteris(exact, chosen, options)
            rough = iteris(single, chosen, options)
            deltas = merged.deltas
            entry |= {
                "options": vars(options),
                "passes": merged.passes,
                "lambda": merged.lambdas,
                "residual": merged.residuals,
                "f32_deviation": max(
                    float((rough.deltas[name] - value).norm() / value.norm()) for name, value in deltas.items()
                ),
            }
        elif entry["method"] == "average":
            deltas = linear_average(chosen)
        else:
            deltas = task_arithmetic(chosen, case["scale"])
        found.append(entry)
        tensors |= {f"{entry['key']}/{name}": value.float().contiguous() for name, value in deltas.items()}
    (folder / "merged").mkdir(exist_ok=True)
    save_file(tensors, folder / "merged" / "cases.safetensors")
    write_json(folder / "merged" / "cases.json", rounded(found))


def rounded(value):
    """Nine digits: more than anything here can be compared to."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


def generate(out: pathlib.Path) -> None:
    torch.set_num_threads(1)
    for folder in out.glob("*"):
        if folder.name not in OTHERS:
            shutil.rmtree(folder)
    models(out)
    adapters(out)
    merges(out)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--out", type=pathlib.Path, default=HERE / "data")
    generate(arguments.parse_args().out)
