"""The goldens of language families are what their script makes, and their oracle agrees with the one for BERT."""

import json

import families
import language_oracle
import pytest
import torch
from family_cases import CASES
from oracle import Options, peft_deltas
from peft import PeftModel
from regenerated import files_in, json_agrees, tensors_agree
from safetensors.torch import load_file
from support import GOLDENS, bert, classifier, head_of

FAMILIES = GOLDENS / "families"
ADAPTERS = GOLDENS / "adapters"
WRITERS = [case for case in CASES if case.generates and not case.controls_only]
BERT_CASES = [
    case
    for case in json.loads((ADAPTERS / "merged" / "cases.json").read_text())
    if case["method"] == "iteris" and case["options"]["padding"] == "exclude"
]


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """Case by case, when first asked for: a failure names its case."""
    folder, made = tmp_path_factory.mktemp("families"), set()

    def case(name):
        if name not in made:
            families.generate(folder, [name])
            made.add(name)
        return folder / name

    return case


def test_every_case_is_kept_and_nothing_else():
    assert sorted(path.name for path in FAMILIES.iterdir()) == sorted(case.name for case in CASES)


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_the_script_makes_the_same_case(again, name):
    kept, made = FAMILIES / name, again(name)
    assert files_in(made) == files_in(kept)
    for file in files_in(kept):
        if file.endswith(".safetensors"):
            tensors_agree(kept / file, made / file)
        elif file.endswith(".json"):
            json_agrees(kept / file, made / file)


def test_they_stay_small():
    assert sum((FAMILIES / file).stat().st_size for file in files_in(FAMILIES)) < 4_000_000


@pytest.mark.parametrize("case", BERT_CASES, ids=lambda case: case["key"])
def test_the_language_oracle_gives_what_the_bert_oracle_gives(case):
    """Two programs for the same formulas: one pads and knows BERT's levels, the other does neither."""
    saved = load_file(ADAPTERS / "merged" / "cases.safetensors")
    tasks = []
    for name, weight in zip(case["adapters"], case["weights"]):
        inputs = json.loads((ADAPTERS / name / "inputs.json").read_text())
        types = inputs["type_ids"] or [[0] * len(ids) for ids in inputs["ids"]]
        samples = [{"input_ids": ids, "token_type_ids": kinds} for ids, kinds in zip(inputs["ids"], types)]
        model = bert(ADAPTERS / "base") if name == "features" else head_model(name)
        tasks.append(language_oracle.Task(name, peft_deltas(model, ADAPTERS / name), samples, weight))
    merged = language_oracle.merge(bert(ADAPTERS / "base").double(), tasks, Options(**case["options"]))
    wanted = {key.split("/")[1]: value for key, value in saved.items() if key.startswith(case["key"] + "/")}
    assert merged.keys() == wanted.keys()
    for name, delta in wanted.items():
        # BERT runs in plain f64 there; kept as f32.
        assert float((merged[name] - delta).norm() / delta.norm()) < 1e-6, name


def head_model(name):
    return classifier(ADAPTERS / "base", head_of(ADAPTERS / name))


def test_a_merge_whose_tasks_agree_is_their_adapter():
    """Both tasks with the same adapter and samples: nothing is lost but what alpha takes."""
    case = next(case for case in CASES if case.name == "llama")
    model = case.load(FAMILIES / "llama" / "base").double()
    deltas = language_oracle.peft_deltas(case.load(FAMILIES / "llama" / "base"), FAMILIES / "llama" / "b")
    samples = json.loads((FAMILIES / "llama" / "inputs.json").read_text())["samples"]["b"]
    task = language_oracle.Task("b", deltas, [{"input_ids": ids} for ids in samples])
    merged = language_oracle.merge(model, [task, task], Options(alpha1=1e-9, alpha2=1e-9))
    for name, delta in deltas.items():
        assert float((merged[name] - delta).norm() / delta.norm()) < 1e-3, name


@pytest.mark.parametrize("case", WRITERS, ids=lambda case: case.name)
@pytest.mark.parametrize("adapter", ["a", "b"])
def test_answers_are_those_of_transformers_with_peft_in_f32(case, adapter):
    """The oracle adds deltas by hooks, in f64; PEFT's own model in f32 writes the same: nothing hinges on rounding."""
    folder = FAMILIES / case.name
    inputs = json.loads((folder / "inputs.json").read_text())
    peft = PeftModel.from_pretrained(case.load(folder / "base"), str(folder / adapter)).eval()
    for ids, wanted in zip(inputs["prompts"], inputs["generated"][adapter]):
        tokens = torch.tensor([ids])
        found = peft.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=families.MAX_NEW_TOKENS,
        )
        assert found[0].tolist()[1 if case.kind == "encoder-decoder" else len(ids) :] == wanted
