"""The goldens are what their script makes, and the oracle is right about the fixtures that another oracle made."""

import json

import generate
import pytest
from oracle import Batch, Options, Task, iteris
from safetensors.torch import load_file
from support import EMOTION, GOLDENS, bert, minilm, needs_emotion

# Libraries may sum in another order from release to release; outputs are of size 1.
TOLERANCE = 1e-6


def of_bert(pattern):
    """Names of the goldens that `generate.py` makes; `families` has a check of its own."""
    found = (path.relative_to(GOLDENS) for path in GOLDENS.rglob(pattern) if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != "families")


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    folder = tmp_path_factory.mktemp("goldens")
    generate.generate(folder)
    return folder


def test_the_script_makes_the_same_files(again):
    assert sorted(str(path.relative_to(again)) for path in again.rglob("*") if path.is_file()) == of_bert("*")


@pytest.mark.parametrize("name", of_bert("*.safetensors"))
def test_tensors_come_out_the_same(again, name):
    here, there = load_file(GOLDENS / name), load_file(again / name)
    assert here.keys() == there.keys()
    for key, value in here.items():
        assert value.dtype == there[key].dtype
        assert value.shape == there[key].shape
        # Inputs (weights, adapters) come from numpy's stream and are exact; outputs are computed.
        worst = float((value.double() - there[key].double()).abs().max())
        computed = name.endswith(("expected.safetensors", "cases.safetensors"))
        assert worst <= (TOLERANCE * max(1.0, float(value.abs().max())) if computed else 0.0), key


@pytest.mark.parametrize("name", of_bert("*.json"))
def test_json_comes_out_the_same(again, name):
    def same(here, there, where):
        if isinstance(here, float):
            assert there == pytest.approx(here, rel=1e-5), where
        elif isinstance(here, dict):
            assert here.keys() == there.keys(), where
            for key in here.keys() - {"transformers_version", "peft_version", "f32_deviation"}:
                same(here[key], there[key], f"{where}/{key}")
        elif isinstance(here, list):
            assert len(here) == len(there), where
            for i, (one, other) in enumerate(zip(here, there)):
                same(one, other, f"{where}/{i}")
        else:
            assert here == there, where

    same(json.loads((GOLDENS / name).read_text()), json.loads((again / name).read_text()), name)


@needs_emotion
def test_the_oracle_reproduces_the_emotion_fixtures():
    """Those numbers were made elsewhere, by another program: the two oracles check each other."""
    expected = json.loads((EMOTION / "expected.json").read_text())
    group = next(group for group in expected["groups"] if len(group["tasks"]) == 2)
    reference = load_file(EMOTION / f"expected.{'-'.join(group['tasks'])}.safetensors")
    tasks = []
    for name in group["tasks"]:
        saved = load_file(EMOTION / name / "adapter_model.safetensors")
        scaling = (settings := json.loads((EMOTION / name / "adapter_config.json").read_text()))[
            "lora_alpha"
        ] / settings["r"]
        start, end = "base_model.model.bert.", ".lora_A.weight"
        deltas = {
            key[len(start) : -len(end)]: (scaling * saved[key.replace("lora_A", "lora_B")] @ saved[key]).double()
            for key in saved
            if key.endswith(end)
        }
        ids = load_file(EMOTION / f"{name}.ids.safetensors")
        tasks.append(Task(Batch(ids["input_ids"], ids["attention_mask"], ids["token_type_ids"]), deltas))
    merged = iteris(bert(minilm()), tasks, Options(schedule="iterate", max_iter=3))
    for name, delta in merged.deltas.items():
        module = f"bert.{name}"
        wanted = reference[f"iterate3/{module}.lora_B"] @ reference[f"iterate3/{module}.lora_A"]
        # Both forward in f32, on machines with other kernels.
        assert float((delta - wanted).norm() / wanted.norm()) < 1e-4, name
        assert merged.lambdas[name] == pytest.approx(group["lambda"][module], rel=1e-5)
        assert merged.residuals[name] == pytest.approx(group["residual"]["iterate3"][module], rel=1e-4)
