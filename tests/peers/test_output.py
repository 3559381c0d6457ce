"""What a merge writes, read by the libraries that it is written for: shards, types, ranks by layer, headers, the card.

Nothing here reads a file by itself: transformers, PEFT, safetensors and huggingface_hub do, since one program may load
a folder that another does not.
"""

import json

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors import safe_open
from support import GOLDENS, LOGIT_TOLERANCE, classifier, head_of, logits_in_peft, tiny_inputs, under, wasm
from transformers import AutoModel, BertModel

ADAPTERS = GOLDENS / "adapters"
NAMES = ["qv", "all"]


def merge(out, names: dict[str, str] | None = None, **options) -> dict:
    """The weighted sum of two adapters, into the folder `out`; `names` gives them others."""
    out.mkdir()
    report = wasm(
        {
            "command": "merge",
            "base": ADAPTERS / "base",
            "adapters": [
                {
                    "name": (names or {}).get(name, name),
                    "folder": ADAPTERS / name,
                    "weight": weight,
                    "samples": tiny_inputs(name),
                }
                for name, weight in zip(NAMES, [1.0, 0.5])
            ],
            "options": {"method": "linear", **options},
            "out": out,
        }
    )
    assert "error" not in report, report
    return report


def loaded(folder, **how) -> BertModel:
    """transformers' model of a folder, which has every tensor that it needs and no other."""
    model, found = BertModel.from_pretrained(folder, output_loading_info=True, **how)
    assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), found
    return model.eval()


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    out = tmp_path_factory.mktemp("single") / "out"
    merge(out, output="base")
    return out


def test_transformers_loads_shards_as_it_loads_one_file(single, tmp_path):
    merge(tmp_path / "out", output="base", maxShardBytes=8000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert not (tmp_path / "out" / "model.safetensors").exists()
    wanted, found = loaded(single).state_dict(), loaded(tmp_path / "out").state_dict()
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_transformers_finds_the_chosen_type_by_itself(dtype, single, tmp_path):
    merge(tmp_path / "out", output="base", dtype=dtype)
    torch_type = {"bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    model = AutoModel.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == torch_type and model.config.dtype == torch_type
    found = model.state_dict()
    for key, value in loaded(single, dtype=torch.float32).state_dict().items():
        if value.is_floating_point():
            assert torch.equal(found[key], value.to(torch_type)), key


@pytest.mark.parametrize("options", [{}, {"energy": 0.9}], ids=["exact", "cut"])
def test_peft_loads_ranks_by_layer_with_the_same_logits(options, tmp_path):
    merge(tmp_path / "uniform", **options)
    merge(tmp_path / "own", ranks="per-layer", **options)
    uniform, own = (
        json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("uniform", "own")
    )
    assert uniform["rank_pattern"] == uniform["alpha_pattern"] == {}
    assert own["rank_pattern"] == own["alpha_pattern"]
    assert own["rank_pattern"], "one adapter has modules that the other has not"
    for name in NAMES:
        inputs = tiny_inputs(name)
        base = classifier(ADAPTERS / "base", head_of(ADAPTERS / name))
        logits = [
            logits_in_peft(under(base, tmp_path / folder), inputs["ids"], inputs["type_ids"])
            for folder in ("uniform", "own")
        ]
        plain = logits_in_peft(base, inputs["ids"], inputs["type_ids"])
        assert float((logits[0] - plain).abs().max()) > 100 * LOGIT_TOLERANCE, "the adapter does something"
        assert float((logits[1] - logits[0]).abs().max()) < LOGIT_TOLERANCE, name


def test_peft_loads_bf16(tmp_path):
    merge(tmp_path / "out", dtype="bf16")
    under(classifier(ADAPTERS / "base", head_of(ADAPTERS / "qv")), tmp_path / "out")


@pytest.mark.parametrize("output", ["adapter", "base"])
def test_safetensors_reads_where_a_file_is_from(output, tmp_path):
    report = merge(tmp_path / "out", output=output)
    name = "adapter_model.safetensors" if output == "adapter" else "model.safetensors"
    with safe_open(tmp_path / "out" / name, "pt") as file:
        told = file.metadata()
    assert told["format"] == "pt" and told["iteris_web.method"] == "linear"
    assert told["iteris_web.created_by"] == report["created_by"]
    adapters = json.loads(told["iteris_web.adapters"])
    assert [(adapter["name"], adapter["weight"]) for adapter in adapters] == [("qv", 1.0), ("all", 0.5)]
    for adapter, entry in zip(report["adapters"], adapters):
        hashes = {file["name"]: file["sha256"] for file in adapter["files"]}
        assert hashes["adapter_model.safetensors"] == entry["sha256"]


@pytest.mark.parametrize("output", ["adapter", "base"])
def test_the_hub_reads_the_card(output, tmp_path):
    merge(tmp_path / "out", output=output)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model_relation == {"adapter": "adapter", "base": "merge"}[output]
    assert card.data.library_name == {"adapter": "peft", "base": "transformers"}[output]
    assert card.data.base_model == "adapters/base", "what both adapters' configurations say"
    assert {"merge", "iteris-web"} <= set(card.data.tags)
    assert ("lora" in card.data.tags) == (output == "adapter")
    assert card.data.license is None and card.data.language is None
    assert "qv" in card.text and "--recipe merge_report.json" in card.text


@pytest.mark.parametrize("output", ["adapter", "base"])
def test_the_code_on_the_card_runs(output, tmp_path, monkeypatch):
    merge(tmp_path / "out", output=output)
    text = ModelCard.load(tmp_path / "out" / "README.md").text
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(GOLDENS)  # where the base model is that the adapters name
    names: dict = {}
    exec(code.replace("path/to/this/folder", str(tmp_path / "out")), names)
    found = names["model"].eval()
    assert isinstance(found, PeftModel) == (output == "adapter")
    inputs = tiny_inputs("qv")
    other = tmp_path / "other"
    merge(other)
    wanted = under(classifier(ADAPTERS / "base", head_of(ADAPTERS / "qv")), other)
    logits = [logits_in_peft(model, inputs["ids"], inputs["type_ids"]) for model in (found, wanted)]
    assert float((logits[0] - logits[1]).abs().max()) < LOGIT_TOLERANCE


def test_the_hub_reads_a_card_with_names_that_are_none(tmp_path):
    evil = 'x"\n---\nlicense: mit\n```\n# <img src=x>|\u2028\u0085: [y](z) 🤗'
    merge(tmp_path / "out", names={"qv": evil, "all": "null"})
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license is None and card.data.library_name == "peft"
    assert "\n---" not in card.text and card.text.count("```") % 2 == 0
