"""Merges by every method, held against PEFT: on the goldens, and live on adapters that are made here.

PEFT's `add_weighted_adapter` is right where it works on whole deltas. Where it works on the factors (`linear`, `ties`,
`dare_*`, `magnitude_prune`) its product has cross terms, and the expectation is PEFT's own function of
`peft.utils.merge_utils` on the deltas in f64. Where PEFT is wrong a test says so, and these
tests fail when it is mended, and then may go.
"""

import json
import pathlib

import methods
import pytest
import torch
from generate import fill_adapter
from methods_oracle import knots
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import merge_utils
from regenerated import files_in, json_agrees, tensors_agree
from safetensors.torch import load_file
from support import (
    GOLDENS,
    LOGIT_TOLERANCE,
    bert,
    classifier,
    cli,
    head_of,
    logits_in_peft,
    logits_in_wasm,
    tiny_inputs,
    under,
    wasm,
)

ADAPTERS, KEPT = GOLDENS / "adapters", GOLDENS / "methods"
CASES = json.loads((KEPT / "cases.json").read_text())
ALL = [(case, method) for case in CASES for method in case["methods"]]
CUTS = ("svd",)
# Data-free methods round to f32 a few times; RegMean's features are f32; IterIS's ridge magnifies that (README.md).
TOLERANCES = {"iteris": 1e-3, "regmean": 1e-5, "regmean++": 1e-5}


def described(value) -> str:
    return value["key"] if isinstance(value, dict) else value


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def deltas_in_peft(model: PeftModel, name: str = "default") -> dict[str, torch.Tensor]:
    return {
        key.removeprefix("base_model.model.").removeprefix("bert."): layer.get_delta_weight(name).detach().double()
        for key, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and name in layer.lora_A
    }


def close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    for name, delta in wanted.items():
        assert float((found[name] - delta).norm()) <= tolerance * float(delta.norm()), name


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods") / "data"
    methods.generate(folder)
    return folder


def test_the_script_makes_the_same_files(again):
    assert files_in(again) == files_in(KEPT)
    tensors_agree(KEPT / "cases.safetensors", again / "cases.safetensors")
    json_agrees(KEPT / "cases.json", again / "cases.json")


@pytest.fixture(scope="module")
def expected():
    return load_file(KEPT / "cases.safetensors")


def merge(case: dict, method: str, out: pathlib.Path) -> dict:
    out.mkdir()
    options = {camel(key): value for key, value in case["options"].items()} | {"method": method}
    # What the method itself does not cut is written whole.
    if not method.endswith(CUTS):
        options["rank"] = 1000
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


@pytest.mark.parametrize(("case", "method"), ALL, ids=described)
def test_peft_finds_the_goldens_deltas_in_a_merged_adapter(case, method, expected, tmp_path):
    merge(case, method, tmp_path / "out")
    head = next(name for name in case["adapters"] if name != "features")
    model = under(classifier(ADAPTERS / "base", head_of(ADAPTERS / head)), tmp_path / "out")
    wanted = {key.split("/")[1]: value.double() for key, value in expected.items() if key.startswith(case["key"] + "/")}
    close(deltas_in_peft(model), wanted, TOLERANCES.get(method, 1e-6))


@pytest.mark.parametrize(("case", "method"), ALL, ids=described)
def test_logits_under_a_merged_adapter_are_pefts(case, method, tmp_path):
    merge(case, method, tmp_path / "out")
    name = next(name for name in case["adapters"] if name != "features")
    inputs = tiny_inputs(name)
    model = under(classifier(ADAPTERS / "base", head_of(ADAPTERS / name)), tmp_path / "out")
    wanted = logits_in_peft(model, inputs["ids"], inputs["type_ids"])
    found = logits_in_wasm(ADAPTERS / "base", tmp_path / "out", ADAPTERS / name, inputs["ids"], inputs["type_ids"])
    assert float((found - wanted).abs().max()) < LOGIT_TOLERANCE


# Live: adapters that nobody has seen, merged by the command line without a base, and by PEFT.

CONFIGS = {
    "first": dict(r=3, lora_alpha=5, target_modules=["query", "output.dense"], rank_pattern={"layer.1.output.dense": 6}),
    "second": dict(r=3, lora_alpha=2, target_modules=["query", "value"], alpha_pattern={"value": 9}),
    "third": dict(r=5, lora_alpha=7, target_modules=["query", "key", "output.dense"], use_rslora=True),
    "apart": dict(r=3, lora_alpha=4, target_modules=["intermediate.dense"]),
}  # fmt: skip
WEIGHTS = {"first": 1.0, "second": -0.5, "third": 0.7, "apart": 2.0}


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """Folders of the adapters, and one model of PEFT's that has them all."""
    folder = tmp_path_factory.mktemp("live")
    for name, how in CONFIGS.items():
        torch.manual_seed(0)
        own = get_peft_model(bert(ADAPTERS / "base"), LoraConfig(**how))
        fill_adapter(own, "live/" + name)
        own.save_pretrained(folder / name)
    model = None
    for name in CONFIGS:
        if model is None:
            model = PeftModel.from_pretrained(bert(ADAPTERS / "base"), folder / name, adapter_name=name)
        else:
            model.load_adapter(folder / name, adapter_name=name)
    return folder, model.double().eval()


def by_cli(live, names: list[str], out: pathlib.Path, *options: object) -> dict[str, torch.Tensor]:
    """The deltas that PEFT finds in what the command line wrote."""
    folder, _ = live
    words: list[object] = ["merge", "--out", out]
    for name in names:
        words += ["--adapter", folder / name, "--weight", WEIGHTS[name]]
    code, _, said = cli(*words, *options)
    assert code == 0, said
    return deltas_in_peft(under(bert(ADAPTERS / "base"), out))


def by_adding(live, names: list[str], method: str, **options) -> dict[str, torch.Tensor]:
    """PEFT's `add_weighted_adapter`."""
    _, model = live
    model.add_weighted_adapter(names, [WEIGHTS[name] for name in names], "merged", method, **options)
    found = deltas_in_peft(model, "merged")
    model.delete_adapter("merged")
    return found


def by_function(live, names: list[str], method: str, **options) -> dict[str, torch.Tensor]:
    """PEFT's function on the deltas in f64."""
    _, model = live
    deltas = {name: deltas_in_peft(model, name) for name in names}
    found = {}
    for module in sorted(set().union(*deltas.values())):
        own = [name for name in names if module in deltas[name]]
        weights = torch.tensor([WEIGHTS[name] for name in own], dtype=torch.float64)
        found[module] = getattr(merge_utils, method)([deltas[name][module] for name in own], weights, **options)
    return found


NAMES = ["first", "second", "third"]


def test_cat_is_pefts(live, tmp_path):
    close(by_cli(live, NAMES, tmp_path / "out", "--method", "cat"), by_adding(live, NAMES, "cat"))


@pytest.mark.parametrize("rank", [None, 2, 4])
def test_svd_is_pefts(live, rank, tmp_path):
    own = by_cli(live, NAMES, tmp_path / "out", "--method", "svd", *(["--svd-rank", rank] if rank else []))
    close(own, by_adding(live, NAMES, "svd", svd_rank=rank))


@pytest.mark.parametrize("method", ["ties_svd", "magnitude_prune_svd"])
@pytest.mark.parametrize("sign", ["total", "frequency"])
def test_a_method_cut_by_svd_is_pefts(live, method, sign, tmp_path):
    more = ["--majority-sign-method", sign] if method == "ties_svd" else []
    own = by_cli(live, NAMES, tmp_path / "out", "--method", method, "--density", 0.4, *more)
    close(own, by_adding(live, NAMES, method, density=0.4, majority_sign_method=sign))


@pytest.mark.parametrize("method", ["ties", "magnitude_prune"])
def test_a_method_on_whole_deltas_is_pefts_function(live, method, tmp_path):
    own = by_cli(live, NAMES, tmp_path / "out", "--method", method, "--density", 0.4, "--rank", 1000)
    close(own, by_function(live, NAMES, method, density=0.4))


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_a_sum_is_the_sum_of_the_deltas(live, method, tmp_path):
    own = by_cli(live, NAMES, tmp_path / "out", "--method", method)
    close(own, by_function(live, NAMES, "task_arithmetic"))


def test_linear_is_pefts_where_there_is_nothing_to_cross(live, tmp_path):
    apart = ["second", "apart"]
    close(by_cli(live, apart, tmp_path / "out", "--method", "linear"), by_adding(live, apart, "linear"))


def test_pefts_linear_has_cross_terms_that_ours_has_not(tmp_path):
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=2, target_modules=["query"])
    model = get_peft_model(bert(ADAPTERS / "base"), config, adapter_name="one")
    model.add_adapter("two", config)
    fill_adapter(model, "live/crossing")
    model.save_pretrained(tmp_path)
    model.add_weighted_adapter(["one", "two"], [1.0, 1.0], "crossed", "linear")
    code, _, said = cli(
        "merge", "--out", tmp_path / "out", "--method", "linear", "--adapter", tmp_path / "one", "--adapter", tmp_path / "two"
    )
    assert code == 0, said
    own = deltas_in_peft(under(bert(ADAPTERS / "base"), tmp_path / "out"))
    one, two, crossed = (deltas_in_peft(model, name) for name in ("one", "two", "crossed"))
    wanted = {name: one[name] + two[name] for name in one}
    close(own, wanted)
    for name, delta in wanted.items():
        assert float((crossed[name] - delta).norm() / delta.norm()) > 0.1, name


def test_peft_keeps_the_scaling_of_rslora_where_ours_is_the_sum(live, tmp_path):
    names = ["third", "first"]
    own = by_cli(live, names, tmp_path / "out", "--method", "cat")
    wanted = by_function(live, names, "task_arithmetic")
    close(own, wanted)
    # PEFT copies use_rslora of the first adapter and sets alpha to the rank r: scaled by sqrt(r).
    theirs = by_adding(live, names, "cat")
    rank = 5 + 6
    close({name: delta / rank**0.5 for name, delta in theirs.items()}, wanted)


def test_knots_is_numpys(live, tmp_path):
    own = by_cli(live, NAMES, tmp_path / "out", "--method", "knots", "--density", 0.4, "--scale", 0.8)
    _, model = live
    deltas = {name: deltas_in_peft(model, name) for name in NAMES}
    wanted = {}
    for module in own:
        there = [name for name in NAMES if module in deltas[name]]
        wanted[module] = torch.from_numpy(
            knots(
                [deltas[name][module].numpy() for name in there], [WEIGHTS[name] for name in there], 0.4, "total", 0.8
            )
        )
    close(own, wanted)


@pytest.mark.parametrize("ranks", ["uniform", "per-layer"])
def test_a_cut_adapter_is_loaded_with_the_error_it_reports(live, ranks, tmp_path):
    whole = by_function(live, NAMES, "task_arithmetic")
    own = by_cli(live, NAMES, tmp_path / "out", "--method", "linear", "--energy", 0.95, "--ranks", ranks)
    report = json.loads((tmp_path / "out" / "merge_report.json").read_text())
    for layer in report["layers"]:
        name = layer["module"].removeprefix("bert.")
        error = float((own[name] - whole[name]).norm() / whole[name].norm())
        assert error == pytest.approx(layer["error"], abs=1e-6), name
        assert layer["energy_kept"] >= 0.95
        values = torch.linalg.svdvals(whole[name]) ** 2
        if ranks == "per-layer" and layer["rank"] > 1:
            assert float(values[: layer["rank"] - 1].sum() / values.sum()) < 0.95, name
