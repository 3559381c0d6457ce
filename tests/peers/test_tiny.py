"""Our forward pass and our merges on the tiny goldens, judged by transformers, PEFT and the oracle."""

import json

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from support import (
    GOLDENS,
    LOGIT_TOLERANCE,
    bert,
    classifier,
    head_of,
    logits_in_peft,
    logits_in_wasm,
    tiny_inputs,
    under,
    wasm,
)
from transformers import BertForSequenceClassification, BertModel

ADAPTERS = GOLDENS / "adapters"
CLASSIFIERS = ["qv", "all", "dense", "regex", "all-linear"]
CASES = json.loads((ADAPTERS / "merged" / "cases.json").read_text())
# As tests/goldens/README.md explains: what the oracle itself moves by when its forward pass goes to f32, times ten.
DELTA_TOLERANCE = 1e-3
NAMES = {"max_iter": "maxIter", "adaptive_weights": "adaptiveWeights"}


def merge(case: dict, out, **more) -> dict:
    """One case of the goldens by the wasm module, into the folder `out`."""
    out.mkdir()
    options = {NAMES.get(key, key): value for key, value in case["options"].items()} if "options" in case else {}
    options |= {"method": case["method"], **({"scale": case["scale"]} if "scale" in case else {}), **more}
    report = wasm(
        {
            "command": "merge",
            "base": ADAPTERS / "base",
            "adapters": [
                {"name": name, "folder": ADAPTERS / name, "weight": weight, "samples": tiny_inputs(name)}
                for name, weight in zip(case["adapters"], case["weights"])
            ],
            "options": options,
            "out": out,
        }
    )
    assert "error" not in report, report
    return report


def described(case: dict) -> str:
    options = case.get("options", {})
    words = [case["key"], "+".join(case["adapters"]), case["method"]]
    words += [str(options[key]) for key in ("schedule", "max_iter", "target", "padding") if key in options]
    return " ".join(words)


@pytest.fixture(scope="module")
def expected():
    return load_file(ADAPTERS / "merged" / "cases.safetensors")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_logits_under_an_adapter_are_pefts(name):
    inputs = tiny_inputs(name)
    wanted = load_file(ADAPTERS / name / "expected.safetensors")["logits"]
    found = logits_in_wasm(ADAPTERS / "base", ADAPTERS / name, None, inputs["ids"], inputs["type_ids"])
    assert float((found - wanted).abs().max()) < LOGIT_TOLERANCE


@pytest.mark.parametrize("name", ["classifier", "f16"])
def test_logits_of_a_checkpoint_with_a_head_are_transformers(name):
    inputs = json.loads((GOLDENS / name / "inputs.json").read_text())
    wanted = load_file(GOLDENS / name / "expected.safetensors")["logits"]
    found = logits_in_wasm(GOLDENS / name, None, None, inputs["ids"], inputs["type_ids"])
    assert float((found - wanted).abs().max()) < LOGIT_TOLERANCE


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.get("options", {}).get("target") != "full"], ids=described
)
def test_peft_finds_the_oracles_deltas_in_a_merged_adapter(case, expected, tmp_path):
    merge(case, tmp_path / "out")
    first = case["adapters"][0]
    with_adapter = under(classifier(ADAPTERS / "base", head_of(ADAPTERS / first)), tmp_path / "out")
    found = {
        name.removeprefix("base_model.model.bert."): layer.get_delta_weight("default").detach().double()
        for name, layer in with_adapter.named_modules()
        if isinstance(layer, LoraLayer)
    }
    wanted = {key.split("/")[1]: value for key, value in expected.items() if key.startswith(case["key"] + "/")}
    assert found.keys() == wanted.keys()
    for name, delta in wanted.items():
        assert float((found[name] - delta).norm() / delta.norm()) < DELTA_TOLERANCE, name


@pytest.mark.parametrize("case", CASES, ids=described)
def test_transformers_finds_the_oracles_deltas_in_a_merged_base(case, expected, tmp_path):
    merge(case, tmp_path / "out", output="base")
    before, after = bert(ADAPTERS / "base"), bert(tmp_path / "out")
    for name, value in before.state_dict().items():
        delta = expected.get(f"{case['key']}/{name.removesuffix('.weight')}")
        moved = after.state_dict()[name].double() - value.double()
        if delta is None:
            assert float(moved.abs().max()) == 0.0, f"{name} is no merged module and has changed"
        else:
            assert float((moved - delta).norm() / delta.norm()) < DELTA_TOLERANCE, name


@pytest.mark.parametrize("case", [CASES[0], CASES[7], CASES[20], CASES[22], CASES[25]], ids=described)
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_logits_under_a_merged_adapter_are_pefts(case, dtype, tmp_path):
    merge(case, tmp_path / "out", dtype=dtype)
    for name in set(case["adapters"]) & set(CLASSIFIERS):
        inputs = tiny_inputs(name)
        model = under(classifier(ADAPTERS / "base", head_of(ADAPTERS / name)), tmp_path / "out")
        wanted = logits_in_peft(model, inputs["ids"], inputs["type_ids"])
        found = logits_in_wasm(ADAPTERS / "base", tmp_path / "out", ADAPTERS / name, inputs["ids"], inputs["type_ids"])
        # Both read the same file, so f16 costs nothing here.
        assert float((found - wanted).abs().max()) < LOGIT_TOLERANCE, name


def test_an_f16_output_is_the_f32_output_rounded(tmp_path):
    single, half = (tmp_path / dtype for dtype in ("f32", "f16"))
    for folder in (single, half):
        merge(CASES[0], folder, dtype=folder.name)
    wanted, found = (load_file(folder / "adapter_model.safetensors") for folder in (single, half))
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        assert found[key].dtype == torch.float16
        assert torch.equal(found[key], value.half()), key


def test_the_heads_beside_a_merge_are_the_adapters_own(tmp_path):
    merge(CASES[0], tmp_path / "out")
    for name in CASES[0]["adapters"]:
        saved = load_file(tmp_path / "out" / "heads" / f"{name}.safetensors")
        for key, value in head_of(ADAPTERS / name).items():
            found = [saved[other] for other in saved if other.endswith(f"classifier.{key}")]
            assert len(found) == 1 and torch.equal(found[0], value), (name, key)


def test_a_merged_base_keeps_the_checkpoints_layout(tmp_path):
    """A classifier stays a classifier, with its own head, its own names and its `bert.` prefix."""
    case = CASES[0] | {"adapters": ["qv"], "weights": [1.0]}
    merge(case, tmp_path / "out", output="base")
    loaded, report = BertModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert loaded.config.to_dict() | {"_name_or_path": ""} == bert(ADAPTERS / "base").config.to_dict() | {
        "_name_or_path": ""
    }
    assert BertForSequenceClassification.from_pretrained(tmp_path / "out").config.hidden_size == 16
