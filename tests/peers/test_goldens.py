"""The goldens are what their script makes, and the oracle is right about the fixtures that another oracle made."""

import json

import generate
import pytest
from oracle import Batch, Options, Task, iteris
from regenerated import files_in, json_agrees, tensors_agree
from safetensors.torch import load_file
from support import EMOTION, GOLDENS, bert, minilm, needs_emotion

def of_bert(ending=""):
    """Names of the goldens that `generate.py` makes; the others have checks of their own."""
    return [name for name in files_in(GOLDENS) if name.endswith(ending) and name.split("/")[0] not in generate.OTHERS]


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    folder = tmp_path_factory.mktemp("goldens")
    generate.generate(folder)
    return folder


def test_the_script_makes_the_same_files(again):
    assert files_in(again) == of_bert()


@pytest.mark.parametrize("name", of_bert(".safetensors"))
def test_tensors_come_out_the_same(again, name):
    tensors_agree(GOLDENS / name, again / name)


@pytest.mark.parametrize("name", of_bert(".json"))
def test_json_comes_out_the_same(again, name):
    json_agrees(GOLDENS / name, again / name)


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
