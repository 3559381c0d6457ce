"""What PEFT can save on a BERT: plain LoRA in all its spellings is merged right by a pass of the model, and what no pass
can merge is refused by name (`test_peft_features.py` has what methods without samples merge).

Each adapter is made by PEFT here and now, so that a release which changes its files is noticed.
"""

import json

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from support import GOLDENS, bert, classifier, cli, tiny_inputs, wasm

BASE = GOLDENS / "adapters" / "base"
PLAIN = dict(r=3, lora_alpha=5, target_modules=["query", "value", "output.dense"], task_type="SEQ_CLS")
LINEAR = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]


def shaken(model: PeftModel) -> PeftModel:
    """Factors that start at zero, and heads, with weights that matter."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, value in sorted(model.named_parameters()):
            if value.requires_grad:
                value.add_(0.2 * torch.randn(value.shape, generator=draw))
    return model.eval()


def fresh():
    return classifier(BASE, {"weight": torch.zeros(3, 16), "bias": torch.zeros(3)})


def made(config, **how) -> PeftModel:
    torch.manual_seed(0)
    return shaken(get_peft_model(fresh(), config, **how))


def merged_alone(folder, out) -> dict:
    out.mkdir()
    return wasm(
        {
            "command": "merge",
            "base": BASE,
            "adapters": [{"name": "one", "folder": folder, "weight": 1, "samples": tiny_inputs("qv")}],
            "options": {},
            "out": out,
        }
    )


def deltas(model: PeftModel) -> dict[str, torch.Tensor]:
    return {
        name: layer.get_delta_weight(layer.active_adapters[0]).detach().double()
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }


ACCEPTED = {
    "plain": PLAIN,
    "rslora": PLAIN | {"use_rslora": True},
    "rank pattern": PLAIN | {"rank_pattern": {"query": 5, "layer.1.output.dense": 2}},
    "alpha pattern": PLAIN | {"alpha_pattern": {"^bert.encoder.layer.0.attention.self.query": 11, "value": 1}},
    "patterns with rslora": PLAIN
    | {"use_rslora": True, "rank_pattern": {r".*\.layer\.1\..*dense": 4}, "alpha_pattern": {"query": 7}},
    # PEFT takes the first pattern that matches, in the order of the file.
    "patterns that overlap": PLAIN | {"rank_pattern": {"layer.0.attention.self.query": 2, "query": 4}},
    "gaussian": PLAIN | {"init_lora_weights": "gaussian"},
    "orthogonal": PLAIN | {"init_lora_weights": "orthogonal", "r": 4},
    "every linear layer of the blocks": PLAIN | {"target_modules": LINEAR},
    "every linear layer by PEFT's choice, the pooler's too": PLAIN | {"target_modules": "all-linear"},
    "regular expression": PLAIN | {"target_modules": r"bert\.encoder\.layer\.[01]\.(output|intermediate)\.dense"},
    "one layer": PLAIN | {"layers_to_transform": [1], "layers_pattern": "layer"},
    "excluded modules": PLAIN | {"exclude_modules": ["layer.0.attention.self.query"]},
    "dropout": PLAIN | {"lora_dropout": 0.3},
    "without a task": {key: value for key, value in PLAIN.items() if key != "task_type"},
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_plain_lora_merged_alone_returns_pefts_delta(name, tmp_path):
    model = made(LoraConfig(**ACCEPTED[name]))
    model.save_pretrained(tmp_path / "adapter")
    report = merged_alone(tmp_path / "adapter", tmp_path / "out")
    assert "error" not in report, report
    found = deltas(PeftModel.from_pretrained(fresh(), str(tmp_path / "out")))
    wanted = deltas(model)
    assert found.keys() == wanted.keys()
    for module, delta in wanted.items():
        # The ridge of a Gram matrix and of its cross term are equal here: what is left is rounding.
        assert float((found[module] - delta).norm() / delta.norm()) < 1e-4, module


def test_an_adapter_with_a_name_of_its_own(tmp_path):
    model = made(LoraConfig(**PLAIN), adapter_name="mood")
    model.save_pretrained(tmp_path)
    report = merged_alone(tmp_path / "mood", tmp_path / "out")
    assert "error" not in report, report
    found = deltas(PeftModel.from_pretrained(fresh(), str(tmp_path / "out")))
    for module, delta in deltas(model).items():
        assert float((found[module] - delta).norm() / delta.norm()) < 1e-4, module


def test_a_state_dict_with_adapter_names_in_its_keys(tmp_path):
    """As training checkpoints of some programs have them; PEFT itself leaves the name out of its files."""
    model = made(LoraConfig(**PLAIN))
    model.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    named = {
        key.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."): value
        for key, value in load_file(path).items()
    }
    save_file(named, path)
    report = merged_alone(tmp_path / "adapter", tmp_path / "out")
    assert "error" not in report, report


def test_pissa_converted_by_peft_is_a_plain_lora(tmp_path):
    """PEFT writes the difference to the initial factors, of twice the rank, for the base as it was."""
    torch.manual_seed(0)
    # Without a task, so without a head: PEFT's conversion stumbles over heads.
    plain = {key: value for key, value in PLAIN.items() if key != "task_type"}
    model = get_peft_model(fresh(), LoraConfig(**plain, init_lora_weights="pissa"))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "initial")
    shaken(model)
    model.peft_config["default"].init_lora_weights = "pissa"
    model.save_pretrained(tmp_path / "adapter", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    report = merged_alone(tmp_path / "adapter", tmp_path / "out")
    assert "error" not in report, report
    found = deltas(PeftModel.from_pretrained(fresh(), str(tmp_path / "out")))
    for module, delta in deltas(PeftModel.from_pretrained(fresh(), str(tmp_path / "adapter"))).items():
        assert float((found[module] - delta).norm() / delta.norm()) < 1e-4, module


REFUSED = {
    "CorDA": ({"init_lora_weights": "corda"}, "adapter_unsupported", "corda"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "adapter_unsupported", "loftq"),
    "LoRA-GA": ({"init_lora_weights": "lora_ga"}, "adapter_unsupported", "lora_ga"),
    # A pass of the model keeps tasks apart at linear layers alone; methods that need no samples merge these.
    "all biases": (LoraConfig(**PLAIN, bias="all"), "adapter_unsupported", "LayerNorm.bias"),
    "an embedding": (
        LoraConfig(**PLAIN | {"target_modules": ["query", "word_embeddings"]}),
        "adapter_unsupported",
        "word_embeddings",
    ),
    "single tokens": (LoraConfig(**PLAIN, trainable_token_indices=[5, 7]), "adapter_unsupported", "token"),
    "an embedding saved whole": (
        LoraConfig(**PLAIN, modules_to_save=["classifier", "word_embeddings"]),
        "adapter_unsupported",
        "embedding",
    ),
    "a layer norm saved whole": (
        LoraConfig(**PLAIN, modules_to_save=["classifier", "LayerNorm"]),
        "adapter_unsupported",
        "LayerNorm",
    ),
    "a linear layer saved whole": (
        LoraConfig(**PLAIN | {"target_modules": ["query"]}, modules_to_save=["classifier", "intermediate"]),
        "adapter_unsupported",
        "intermediate",
    ),
    "AdaLoRA": (
        AdaLoraConfig(task_type="SEQ_CLS", target_modules=["query"], total_step=10, tinit=1, tfinal=2),
        "adapter_unsupported",
        "ADALORA",
    ),
    "(IA)3": (
        IA3Config(task_type="SEQ_CLS", target_modules=["key", "output.dense"], feedforward_modules=["output.dense"]),
        "adapter_unsupported",
        "IA3",
    ),
    "LoHa": (LoHaConfig(task_type="SEQ_CLS", target_modules=["query"]), "adapter_unsupported", "LOHA"),
    "VeRA": (VeraConfig(task_type="SEQ_CLS", target_modules=["query"]), "adapter_unsupported", "VERA"),
    "prompt tuning": (
        PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
        "adapter_unsupported",
        "PROMPT_TUNING",
    ),
    "prefix tuning": (
        PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
        "adapter_unsupported",
        "PREFIX_TUNING",
    ),
}


def save(config, folder) -> None:
    """An adapter of that configuration, or a plain one whose file says something else."""
    made(LoraConfig(**PLAIN) if isinstance(config, dict) else config).save_pretrained(folder)
    if isinstance(config, dict):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_merged_so_is_refused_by_name(name, tmp_path):
    config, code, word = REFUSED[name]
    save(config, tmp_path / "adapter")
    report = merged_alone(tmp_path / "adapter", tmp_path / "out")
    assert report.get("error", {}).get("code") == code, report
    assert word.lower() in report["error"]["message"].lower()
    assert not list((tmp_path / "out").iterdir()), "a refused merge has written something"


@pytest.mark.parametrize("name", ["CorDA", "LoftQ", "(IA)3"])
def test_the_command_line_refuses_with_code_2(name, tmp_path):
    config, code, word = REFUSED[name]
    save(config, tmp_path / "adapter")
    status, said, _ = cli("inspect", tmp_path / "adapter")
    assert (status, said["error"]["code"]) == (2, code)
    assert word.lower() in said["error"]["message"].lower()


class Harmless:
    """What a pickle that runs code looks like."""

    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_is_read_as_tensors_and_one_with_more_is_refused(tmp_path):
    made(LoraConfig(**PLAIN)).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    assert "error" not in merged_alone(tmp_path / "adapter", tmp_path / "safe")
    tensors = load_file(path)
    path.unlink()
    # PEFT no longer writes these itself; hubs are full of them.
    torch.save(tensors, path.with_name("adapter_model.bin"))
    assert "error" not in merged_alone(tmp_path / "adapter", tmp_path / "pickled")
    safe, pickled = (load_file(tmp_path / out / path.name) for out in ("safe", "pickled"))
    assert safe.keys() == pickled.keys()
    assert all(torch.equal(safe[name], pickled[name]) for name in safe)
    torch.save(tensors | {"more": Harmless()}, path.with_name("adapter_model.bin"))
    assert merged_alone(tmp_path / "adapter", tmp_path / "refused")["error"]["code"] == "pickle_refused"


def test_an_adapter_of_another_base_is_refused_with_the_module_named(tmp_path):
    torch.manual_seed(0)
    shaken(get_peft_model(bert(GOLDENS / "plain"), LoraConfig(target_modules=["query"], r=2))).save_pretrained(
        tmp_path / "adapter"
    )
    error = merged_alone(tmp_path / "adapter", tmp_path / "out")["error"]
    assert error["code"] == "shape_mismatch"
    assert "query" in error["message"]


def test_a_field_that_nobody_knows_yet_is_refused(tmp_path):
    made(LoraConfig(**PLAIN)).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_next_years_trick": True}))
    error = merged_alone(tmp_path / "adapter", tmp_path / "out")["error"]
    assert error["code"] == "adapter_unsupported"
    assert "use_next_years_trick" in error["message"]
