"""Makes `tests/goldens/data/features`: adapters with everything that PEFT can train, and what each adds to its base.

Bases and adapters are written by `save_pretrained`; what an adapter adds is PEFT's own: the weights of
`merge_and_unload()` in f64 less those of the base, and the logits of the model under the adapter. The adapters' numbers
are drawn, not trained, and not what their initialisation would give: the change they mean is defined all the same.

    python tests/goldens/peft_features.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator

import torch
from generate import normal, rng, tidy, write_json, write_model
from language_oracle import exact
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

HERE = pathlib.Path(__file__).resolve().parent
WORDS = 19
# Token ids of the samples whose logits are compared; of the bases that read text.
SAMPLES = [[1, 5, 9, 2], [1, 7, 3, 11, 18, 2], [1, 13, 2]]


class Experts(nn.Module):
    """Parameters of stacked matrices, (experts, d_out, d_in), as most of transformers' experts have them."""

    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(3, 10, 4))
        self.down_proj = nn.Parameter(torch.empty(3, 4, 5))

    def forward(self, x):
        gate, up = torch.einsum("bi,eoi->ebo", x, self.gate_up_proj).chunk(2, -1)
        return torch.einsum("ebi,eoi->bo", torch.tanh(gate) * up, self.down_proj)


class Toy(nn.Module):
    """A layer of each kind that no language model here has."""

    # PEFT writes it down; as a script this file would be `__main__`.
    __module__ = "peft_features"

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.conv1 = nn.Conv1d(6, 8, 3)
        self.conv2 = nn.Conv2d(1, 4, (2, 3))
        self.point = nn.Conv2d(4, 6, 1, bias=False)
        self.experts = Experts()
        self.norm = nn.LayerNorm(6)
        self.linear = nn.Linear(4, 4)

    def forward(self, ids):
        x = self.conv1(self.embed(ids).transpose(1, 2))
        x = self.point(self.conv2(x[:, None]))
        x = self.norm(x.flatten(2).mean(2))[:, :4]
        return self.linear(torch.tanh(x)) + self.experts(x)

    def save_pretrained(self, folder):
        folder.mkdir(parents=True)
        save_file(self.state_dict(), folder / "model.safetensors", {"format": "pt"})

    @staticmethod
    def from_pretrained(folder):
        model = Toy()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model


def bert() -> nn.Module:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=WORDS, max_position_embeddings=12, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=12, num_labels=3, pad_token_id=0,
        )
    )  # fmt: skip


def llama(tied: bool) -> nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS, max_position_embeddings=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, intermediate_size=12, tie_word_embeddings=tied, pad_token_id=0,
        )
    )  # fmt: skip


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=WORDS, n_positions=12, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    )


def gpt_oss() -> nn.Module:
    """Experts whose matrices are stored (d_in, d_out), one of them square."""
    return GptOssForCausalLM(
        GptOssConfig(
            vocab_size=WORDS, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_local_experts=3,
            num_experts_per_tok=2, num_attention_heads=2, num_key_value_heads=1, head_dim=4, max_position_embeddings=16,
            pad_token_id=0,
        )
    )  # fmt: skip


BASES: dict[str, tuple[Callable[[], nn.Module], type]] = {
    "bert": (bert, BertForSequenceClassification),
    "gpt2": (gpt2, GPT2LMHeadModel),
    "gpt-oss": (gpt_oss, GptOssForCausalLM),
    "llama": (lambda: llama(False), LlamaForCausalLM),
    "llama-tied": (lambda: llama(True), LlamaForCausalLM),
    "toy": (Toy, Toy),
}

SEQ_CLS = {"task_type": "SEQ_CLS", "target_modules": ["query", "output.dense"]}
EXPERTS = ["experts.down_proj", "experts.gate_up_proj"]
CONVOLUTIONS = ["conv1", "conv2", "point", "linear"]

# What each adapter is configured with beside r = 2 and lora_alpha = 3.
CASES: dict[str, dict[str, dict]] = {
    "bert": {
        "dora": {**SEQ_CLS, "use_dora": True, "use_rslora": True},
        "dora-embedding": {**SEQ_CLS, "use_dora": True, "target_modules": ["query", "word_embeddings"]},
        "embedding": {**SEQ_CLS, "target_modules": ["value", "word_embeddings"], "rank_pattern": {"value": 3}},
        "lora-bias": {**SEQ_CLS, "lora_bias": True, "alpha_pattern": {"query": 5}},
        "bias-lora-only": {**SEQ_CLS, "bias": "lora_only"},
        "bias-all": {**SEQ_CLS, "bias": "all"},
        "both-biases": {**SEQ_CLS, "bias": "lora_only", "lora_bias": True},
        "pissa": {**SEQ_CLS, "init_lora_weights": "pissa"},
        "pissa-dora": {**SEQ_CLS, "init_lora_weights": "pissa", "use_dora": True},
        "olora": {**SEQ_CLS, "init_lora_weights": "olora"},
        "orthogonal": {**SEQ_CLS, "init_lora_weights": "orthogonal"},
        "mica": {**SEQ_CLS, "init_lora_weights": "mica"},
        "saved": {**SEQ_CLS, "modules_to_save": ["word_embeddings", "output.LayerNorm"]},
        "one-layer": {
            **SEQ_CLS, "layers_to_transform": [1], "layers_pattern": "layer", "exclude_modules": ["attention.output.dense"],
        },
    },
    "gpt2": {
        "dora": {"target_modules": ["c_attn", "c_proj"], "use_dora": True, "fan_in_fan_out": True},
        "pissa": {"target_modules": ["c_attn"], "init_lora_weights": "pissa", "fan_in_fan_out": True},
        "embedding": {"target_modules": ["c_fc", "wte"], "fan_in_fan_out": True},
    },
    "gpt-oss": {"experts": {"target_modules": [], "target_parameters": ["experts.down_proj"]}},
    "llama": {
        "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [9, 3, 14]},
        "tokens-by-module": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 4]}},
        "saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm"]},
        "embedding": {"target_modules": ["k_proj", "embed_tokens"]},
        "head": {"target_modules": ["o_proj", "lm_head"]},
        "parameter": {"target_modules": ["v_proj"], "target_parameters": ["mlp.down_proj.weight"]},
    },
    "llama-tied": {
        "tokens": {"target_modules": ["up_proj"], "trainable_token_indices": [2, 17]},
        "embedding": {"target_modules": ["up_proj", "embed_tokens"]},
    },
    "toy": {
        "convolutions": {"target_modules": CONVOLUTIONS, "use_rslora": True},
        "convolutions-dora": {"target_modules": CONVOLUTIONS[:2], "use_dora": True},
        "convolutions-bias": {"target_modules": ["conv1", "conv2", "linear"], "lora_bias": True},
        "embedding": {"target_modules": ["embed", "linear"]},
        "experts": {"target_modules": ["linear"], "target_parameters": EXPERTS, "rank_pattern": {"down_proj": 1}},
        "saved": {"target_modules": ["linear"], "modules_to_save": ["norm"]},
    },
}  # fmt: skip


def is_scale(key: str) -> bool:
    return key.endswith("weight") and any(part in key for part in ("norm", "Norm", "ln_"))


def fill(model: nn.Module, name: str) -> nn.Module:
    """Weights of a base: large enough that every layer shows in the logits."""
    drawn = rng(f"features/{name}")
    seen = set()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.data_ptr() in seen:
                continue
            seen.add(value.data_ptr())
            scale = 0.2 if value.dim() == 1 else 0.5
            value.copy_(normal(drawn, value.shape, scale, 1.0 if is_scale(key) else 0.0))
    return model.eval()


def draw(model: nn.Module, name: str) -> None:
    """Gives every parameter that an adapter saves a number of its own, whatever it was initialised with."""
    drawn = rng(f"features/{name}")
    seen = set()
    with torch.no_grad():
        for key, value in sorted(model.named_parameters()):
            if value.data_ptr() in seen or not (value.requires_grad or ".lora_" in key):
                continue
            seen.add(value.data_ptr())
            if "magnitude" in key or is_scale(key):
                value.copy_(normal(drawn, value.shape, 0.2, 1.0).abs())
            else:
                value.copy_(normal(drawn, value.shape, 0.4))


def logits(model: nn.Module, base: str) -> torch.Tensor:
    """Of each sample in turn: of its classes, or of every token."""
    if base == "toy":
        return model(torch.tensor([[1, 3, 0, 6, 2, 5, 4, 1]]))
    return torch.cat([model(torch.tensor([ids])).logits.reshape(-1, 3 if base == "bert" else WORDS) for ids in SAMPLES])


def opened(base: str, folder: pathlib.Path) -> nn.Module:
    return BASES[base][1].from_pretrained(folder / base / "base").float().eval()


@contextlib.contextmanager
def decomposing_in_f64() -> Iterator[None]:
    """PEFT decomposes the base's weights in f32, for PiSSA and OLoRA again whenever it opens an adapter; in here in f64.

    A singular vector in f32 depends on the order of sums, so on the processor, by more than numbers are compared at.
    """
    kept = {name: getattr(LoraLayer, name) for name in ("pissa_init", "olora_init", "mica_init")}

    def exactly(init):
        def run(*given, **more):
            with exact():
                return init(*given, **more)

        return run

    for name, init in kept.items():
        setattr(LoraLayer, name, exactly(init))
    try:
        yield
    finally:
        for name, init in kept.items():
            setattr(LoraLayer, name, init)


@torch.no_grad()
def expectation(base: str, case: str, out: pathlib.Path) -> dict[str, torch.Tensor]:
    before = {key: value.double() for key, value in opened(base, out).state_dict().items()}
    with decomposing_in_f64():
        model = PeftModel.from_pretrained(opened(base, out).double(), out / base / case).eval().double()
    # The experts' kernels know no f64.
    wanted = {}
    if base != "gpt-oss":
        with exact():
            wanted["logits"] = logits(model, base)
    merged = model.merge_and_unload().state_dict()
    # A head is a task's own, and a tied one is the table.
    stored = load_file(out / base / "base" / "model.safetensors").keys()
    for key, value in merged.items():
        if key in stored and not key.startswith("classifier") and not torch.equal(value, before[key]):
            wanted[f"delta/{key}"] = value - before[key]
    return {key: value.float().contiguous() for key, value in wanted.items()}


def generate(out: pathlib.Path) -> None:
    for base, (make, _) in BASES.items():
        model = fill(make(), base)
        write_model(model, out / base / "base") if base != "toy" else model.save_pretrained(out / base / "base")
        for case, options in CASES[base].items():
            torch.manual_seed(0)
            adapted = get_peft_model(opened(base, out), LoraConfig(r=2, lora_alpha=3, **options))
            draw(adapted, f"{base}/{case}")
            # Biases of the base are saved as they are under the adapter.
            adapted.save_pretrained(out / base / case, save_embedding_layers="auto")
            tidy(out / base / case)
            settings = out / base / case / "adapter_config.json"
            # A folder of this machine, by PEFT's choice.
            said = json.loads(settings.read_text()) | {"base_model_name_or_path": f"features/{base}"}
            settings.write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
            save_file(expectation(base, case, out), out / base / case / "expected.safetensors")
    write_json(out / "samples.json", SAMPLES)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "data" / "features")
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    generate(out)
