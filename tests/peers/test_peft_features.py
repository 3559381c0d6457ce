"""Everything that PEFT can train, merged alone and read again by PEFT: the logits are those of the base with as much added.

What is expected is PEFT's own merge of the adapter, recorded by `tests/goldens/peft_features.py`, times the weight.
PEFT leaves a tensor under a name that it does not know out without an error, so each one that was written is looked for
in the loaded model.
"""

import json
import shutil

import peft_features
import pytest
import torch
from peft import PeftModel
from regenerated import files_in, json_agrees, tensors_agree
from safetensors.torch import load_file
from support import GOLDENS, LOGIT_TOLERANCE, logits_in_wasm, wasm

KEPT = GOLDENS / "features"
CASES = [f"{base}/{case}" for base, cases in peft_features.CASES.items() for case in cases]
# Adding to the table would add to the head that it is tied to, which such an adapter does not.
TIED = ["gpt2/embedding", "llama-tied/embedding"]
# A pass of our own keeps tasks apart at linear layers alone.
BY_PASS = [
    case
    for case in CASES
    if case.split("/")[0] in ("bert", "gpt2", "llama", "llama-tied")
    and not any(word in case for word in ("embedding", "saved", "tokens", "/head", "bias-all"))
]


def folders(case: str):
    base = case.split("/")[0]
    return base, KEPT / base / "base", KEPT / case


def merged(case: str, weight: float, out) -> None:
    _, base, adapter = folders(case)
    out.mkdir()
    # DoRA's change has every rank, so that a cut would lose some.
    options = {"method": "linear", "rank": 64}
    request = {"command": "merge", "base": base, "options": options, "out": out}
    report = wasm(request | {"adapters": [{"name": "one", "folder": adapter, "weight": weight}]})
    assert "error" not in report, report


def with_head(model, case: str):
    """A classifier gets the task's own head, which no merge changes."""
    head = load_file(folders(case)[2] / "adapter_model.safetensors")
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.startswith("classifier"):
                value.copy_(head[f"base_model.model.{key}"])
    return model


def in_peft(case: str, out) -> torch.Tensor:
    """The logits under the adapter in `out`, none of whose tensors PEFT leaves out."""
    base = case.split("/")[0]
    model = PeftModel.from_pretrained(with_head(peft_features.opened(base, KEPT), case), str(out)).eval()
    loaded = {key.replace(".default", ""): value for key, value in model.state_dict().items()}
    for key, value in load_file(out / "adapter_model.safetensors").items():
        found = [loaded.get(key), loaded.get(f"{key}.weight")]
        module, _, parameter = key.rpartition(".")
        found.append(loaded.get(f"{module}.modules_to_save.{parameter}"))
        assert any(one is not None and torch.equal(one, value) for one in found), f"PEFT did not load {key}"
    return peft_features.logits(model, base)


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "data"
    peft_features.generate(folder)
    return folder


def test_the_script_makes_the_same_files(again):
    assert files_in(again) == files_in(KEPT)
    for name in files_in(KEPT):
        if name.endswith(".safetensors"):
            tensors_agree(KEPT / name, again / name)
        else:
            json_agrees(KEPT / name, again / name)


@torch.no_grad()
@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("gpt-oss")])
def test_a_merge_alone_gives_pefts_logits(case, tmp_path):
    merged(case, 1, tmp_path / "out")
    found = in_peft(case, tmp_path / "out")
    wanted = load_file(KEPT / case / "expected.safetensors")["logits"]
    assert float((found - wanted).abs().max()) < LOGIT_TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("weight", [0.5, -1.0])
@pytest.mark.parametrize("case", [case for case in CASES if case not in TIED])
def test_a_weight_gives_as_much_of_the_change(case, weight, tmp_path):
    merged(case, weight, tmp_path / "out")
    found = in_peft(case, tmp_path / "out")
    base = case.split("/")[0]
    model = with_head(peft_features.opened(base, KEPT), case)
    for key, delta in load_file(KEPT / case / "expected.safetensors").items():
        if key.startswith("delta/"):
            model.state_dict()[key.removeprefix("delta/")].add_(weight * delta)
    wanted = peft_features.logits(model, base)
    assert float((found - wanted).abs().max()) < LOGIT_TOLERANCE


@pytest.mark.parametrize("case", BY_PASS)
def test_our_own_pass_gives_pefts_logits(case):
    _, base, adapter = folders(case)
    ids = json.loads((KEPT / "samples.json").read_text())
    found = logits_in_wasm(base, adapter, None, ids)
    wanted = load_file(adapter / "expected.safetensors")["logits"]
    assert float((found - wanted).abs().max()) < LOGIT_TOLERANCE


@torch.no_grad()
def test_two_kinds_of_biases_become_one(tmp_path):
    """lora_B's and the base's own, of two adapters."""
    out = tmp_path / "out"
    out.mkdir()
    names = ["bert/lora-bias", "bert/bias-lora-only"]
    adapters = [{"name": name, "folder": KEPT / name, "weight": 0.5} for name in names]
    options = {"method": "linear", "rank": 64}
    report = wasm(
        {"command": "merge", "base": KEPT / "bert" / "base", "adapters": adapters, "options": options, "out": out}
    )
    assert "error" not in report, report
    model = with_head(peft_features.opened("bert", KEPT), names[0])
    for name in names:
        for key, delta in load_file(KEPT / name / "expected.safetensors").items():
            if key.startswith("delta/"):
                model.state_dict()[key.removeprefix("delta/")].add_(0.5 * delta)
    wanted = peft_features.logits(model, "bert")
    assert float((in_peft(names[0], out) - wanted).abs().max()) < LOGIT_TOLERANCE
    shutil.rmtree(out)
