"""Makes `tests/goldens/data/methods`: what every merge method but IterIS must give on the adapters of `generate.py`.

Where PEFT's `add_weighted_adapter` works on whole deltas (`cat`, `svd`, the `*_svd` forms) the numbers are its own. Its
`linear`, `ties`, `dare_*` and `magnitude_prune` work on the factors, so that their product has cross terms; there the
numbers are those of PEFT's functions of `peft.utils.merge_utils`, given the deltas. DARE's draws are ours, put into
PEFT's function. KnOTS, Core Space, RegMean and RegMean++ are of `methods_oracle.py`. Everything is in f64.

    python tests/goldens/methods.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import re
import shutil

import torch
from generate import LABELS, PAD, classifier, rounded, write_json
from methods_oracle import Draws, core_space, knots, regmean
from oracle import Batch, Deltas, Options, Task, iteris, levels, peft_deltas
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import merge_utils
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification, BertModel

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE / "data"
ADAPTERS = DATA / "adapters"

THREE, PAIR = ["qv", "all", "dense"], ["qv", "all"]

CASES = [
    dict(methods=["linear", "cat"], adapters=THREE, weights=[1.0, -0.5, 2.0]),
    dict(methods=["svd"], adapters=THREE, weights=[1.0, -0.5, 2.0]),
    dict(methods=["svd"], adapters=PAIR, weights=[1.0, 1.0], options=dict(svd_rank=2)),
    dict(methods=["ties"], adapters=THREE, weights=[1.0, 0.5, 2.0], options=dict(density=0.3)),
    dict(methods=["ties"], adapters=["all", "regex", "features"], weights=[1.0, -0.5, 0.7],
         options=dict(density=0.6, majority_sign_method="frequency"), part="layer.1"),
    dict(methods=["ties_svd"], adapters=THREE, weights=[1.0, 0.5, 2.0], options=dict(density=0.3)),
    dict(methods=["magnitude_prune"], adapters=THREE, weights=[1.0, -0.5, 2.0], options=dict(density=0.3), part="layer.1"),
    dict(methods=["magnitude_prune_svd"], adapters=THREE, weights=[1.0, -0.5, 2.0],
         options=dict(density=0.3, svd_rank=3), part="layer.1"),
    dict(methods=["dare_linear"], adapters=THREE, weights=[1.0, -0.5, 2.0], options=dict(density=0.4, seed=7), part="layer.1"),
    dict(methods=["dare_linear_svd"], adapters=THREE, weights=[1.0, -0.5, 2.0], options=dict(density=0.4, seed=7), part="layer.0"),
    dict(methods=["dare_ties"], adapters=THREE, weights=[1.0, 0.5, 2.0], options=dict(density=0.7, seed=8), part="layer.1"),
    dict(methods=["dare_ties_svd"], adapters=THREE, weights=[1.0, 0.5, 2.0],
         options=dict(density=0.7, seed=8, majority_sign_method="frequency", svd_rank=4), part="layer.0"),
    dict(methods=["knots"], adapters=THREE, weights=[1.0, 0.5, 2.0], options=dict(density=0.4, scale=0.7)),
    dict(methods=["knots"], adapters=["all", "regex", "features"], weights=[1.0, -0.5, 0.7],
         options=dict(density=1.0, majority_sign_method="frequency"), part="layer.1"),
    dict(methods=["regmean"], adapters=PAIR, weights=[1.0, 1.0]),
    dict(methods=["regmean"], adapters=THREE, weights=[0.5, 1.0, 2.0], options=dict(non_diagonal=0.5, padding="include")),
    dict(methods=["regmean++"], adapters=PAIR, weights=[1.0, 1.0]),
    dict(methods=["regmean++"], adapters=["qv", "all-linear"], weights=[2.0, 1.0], options=dict(non_diagonal=0.7)),
    dict(methods=["iteris"], adapters=PAIR, weights=[1.0, 2.0],
         options=dict(layer_weights={r"encoder\.layer\.0\..*": [1.0, 0.25], "intermediate.dense": [0.5, 2.0]})),
    dict(methods=["ties"], adapters=THREE, weights=[1.0, 0.5, 2.0], options=dict(density=0.3, space="core")),
    dict(methods=["ties"], adapters=PAIR, weights=[1.0, -0.5],
         options=dict(density=0.7, majority_sign_method="frequency", space="core"), part="layer.1"),
    dict(methods=["magnitude_prune"], adapters=THREE, weights=[1.0, -0.5, 2.0], options=dict(density=0.3, space="core"), part="layer.1"),
    dict(methods=["dare_linear"], adapters=THREE, weights=[1.0, -0.5, 2.0], options=dict(density=0.4, seed=7, space="core"), part="layer.1"),
    dict(methods=["dare_ties"], adapters=THREE, weights=[1.0, 0.5, 2.0], options=dict(density=0.7, seed=8, space="core"), part="layer.1"),
]  # fmt: skip
"""`part` keeps the modules whose name has it: the others would say the same again."""


def deltas_of(names: list[str]) -> dict[str, Deltas]:
    """The deltas of adapters in f64, by adapter, as PEFT computes them."""
    found = {}
    for name in names:
        base = ADAPTERS / "base"
        model = classifier(base, LABELS[name]) if name in LABELS else BertModel.from_pretrained(base)
        found[name] = peft_deltas(model.double(), ADAPTERS / name)
    return found


def in_peft(names: list[str]) -> PeftModel:
    """One model in f64 with several adapters, without their heads, of which PEFT merges none."""

    def config(name: str) -> LoraConfig:
        settings = LoraConfig.from_pretrained(str(ADAPTERS / name))
        settings.modules_to_save = settings.task_type = None
        return settings

    base = BertForSequenceClassification.from_pretrained(ADAPTERS / "base", num_labels=2).double().eval()
    model = get_peft_model(base, config(names[0]), adapter_name=names[0], autocast_adapter_dtype=False)
    for name in names[1:]:
        model.add_adapter(name, config(name), autocast_adapter_dtype=False)
    for name in names:
        saved = load_file(ADAPTERS / name / "adapter_model.safetensors")
        factors = {key: value.double() for key, value in saved.items() if "lora_" in key}
        assert not set_peft_model_state_dict(model, factors, adapter_name=name).unexpected_keys
    return model


def by_peft(case: dict, method: str) -> Deltas:
    """PEFT's `add_weighted_adapter`. Scaled by rsLoRA if the first adapter is, which is no part of any definition."""
    names = case["adapters"]
    model = in_peft(names)
    assert not model.peft_config[names[0]].use_rslora
    options = {key: case["options"][key] for key in ("density", "majority_sign_method", "svd_rank") if key in case["options"]}
    with our_draws(case):
        model.add_weighted_adapter(names, case["weights"], "merged", method, **options)
    return {
        name.removeprefix("base_model.model.bert."): layer.get_delta_weight("merged").detach()
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and "merged" in layer.lora_A
    }  # fmt: skip


def by_function(case: dict, method: str) -> Deltas:
    """PEFT's function of that name on the deltas of each layer."""
    options = case["options"]
    function = getattr(merge_utils, "task_arithmetic" if method == "linear" else method)
    given = {key: options[key] for key in ("density", "majority_sign_method") if key in options}
    deltas = deltas_of(case["adapters"])
    with our_draws(case):
        return {
            name: function(
                [deltas[adapter][name] for adapter in case["adapters"] if name in deltas[adapter]],
                torch.tensor(
                    [w for adapter, w in zip(case["adapters"], case["weights"]) if name in deltas[adapter]],
                    dtype=torch.float64,
                ),
                **given,
            )
            for name in ordered(deltas)
        }


def ordered(deltas: dict[str, Deltas]) -> list[str]:
    """Every module that an adapter targets, in the order of PEFT's walk over the model."""
    tasks = [Task(None, own) for own in deltas.values()]
    return [name for level in levels(tasks, 2) for name in level]


@contextlib.contextmanager
def our_draws(case: dict):
    """PEFT's random pruning with our draws: it prunes layer after layer, and in each adapter after adapter."""
    deltas = deltas_of(case["adapters"])
    calls = iter(
        [(name, adapter) for name in ordered(deltas) for adapter in case["adapters"] if name in deltas[adapter]]
    )

    def random_pruning(tensor: torch.Tensor, density: float, rescale: bool) -> torch.Tensor:
        name, adapter = next(calls)
        # The call is for this layer and this adapter, and no other.
        assert torch.allclose(tensor, deltas[adapter][name], rtol=1e-12)
        pruned = tensor * Draws(case["options"]["seed"], name, adapter).mask(tuple(tensor.shape), density)
        return pruned / density if rescale else pruned

    own, merge_utils.random_pruning = merge_utils.random_pruning, random_pruning
    try:
        yield
    finally:
        merge_utils.random_pruning = own
    if "seed" in case["options"]:
        assert next(calls, None) is None, "PEFT pruned fewer times than we thought"


def by_knots(case: dict) -> Deltas:
    options = case["options"]
    deltas = deltas_of(case["adapters"])
    found = {}
    for name in ordered(deltas):
        own = [(deltas[a][name].numpy(), w) for a, w in zip(case["adapters"], case["weights"]) if name in deltas[a]]
        found[name] = torch.from_numpy(
            knots(
                [delta for delta, _ in own],
                [weight for _, weight in own],
                options["density"],
                options.get("majority_sign_method", "total"),
                options.get("scale", 1.0),
            )
        )
    return found


def factors_of(name: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """B, with the scaling, and A of every layer of an adapter in f64."""
    model = in_peft([name])
    return {
        module.removeprefix("base_model.model.bert."): (
            (layer.lora_B[name].weight * layer.scaling[name]).detach().numpy(),
            layer.lora_A[name].weight.detach().numpy(),
        )
        for module, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }


def in_core_space(case: dict, method: str) -> Deltas:
    options = case["options"]
    factors = {name: factors_of(name) for name in case["adapters"]}
    found = {}
    for name in ordered(deltas_of(case["adapters"])):
        own = [(adapter, w) for adapter, w in zip(case["adapters"], case["weights"]) if name in factors[adapter]]
        found[name] = torch.from_numpy(
            core_space(
                [factors[adapter][name] for adapter, _ in own],
                [weight for _, weight in own],
                method,
                options["density"],
                options.get("majority_sign_method", "total"),
                [Draws(options.get("seed", 0), name, adapter) for adapter, _ in own],
            )
        )
    return found


def by_samples(case: dict, method: str) -> Deltas:
    """The methods that run the model."""
    options = case["options"]
    encoder = BertModel.from_pretrained(ADAPTERS / "base", attn_implementation="eager").eval().double()
    deltas = deltas_of(case["adapters"])
    tasks = []
    for index, (name, weight) in enumerate(zip(case["adapters"], case["weights"])):
        inputs = json.loads((ADAPTERS / name / "inputs.json").read_text())
        of_layers = {
            module: weights[index]
            for module in ordered(deltas)
            # As PEFT matches rank_pattern: the first pattern that is the name or its end.
            for weights in [next((w for p, w in options.get("layer_weights", {}).items() if re.match(rf"(.*\.)?({p})$", module)), None)]
            if weights
        }  # fmt: skip
        tasks.append(Task(Batch.of(inputs["ids"], inputs["type_ids"], PAD), deltas[name], weight, of_layers))
    if method == "iteris":
        return iteris(encoder, tasks, Options()).deltas
    more = {key: options[key] for key in ("non_diagonal", "padding") if key in options}
    return regmean(encoder, tasks, plus_plus=method == "regmean++", **more)


def expected(case: dict, method: str) -> Deltas:
    if case["options"].get("space") == "core":
        return in_core_space(case, method)
    if method in ("cat", "svd") or method.endswith("_svd"):
        return by_peft(case, method)
    if method == "knots":
        return by_knots(case)
    if method in ("iteris", "regmean", "regmean++"):
        return by_samples(case, method)
    return by_function(case, method)


def generate(out: pathlib.Path) -> None:
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    found, tensors = [], {}
    for number, case in enumerate(CASES):
        case = {"key": f"{number:02}", "options": {}, "part": "", **case}
        by_method = [expected(case, method) for method in case["methods"]]
        for other in by_method[1:]:
            for name, delta in by_method[0].items():
                assert (other[name] - delta).norm() < 1e-12 * delta.norm(), (case, name)
        deltas = {name: delta for name, delta in by_method[0].items() if case["part"] in name}
        assert deltas
        tensors |= {f"{case['key']}/{name}": delta.float().contiguous() for name, delta in deltas.items()}
        found.append(case)
    save_file(tensors, out / "cases.safetensors")
    write_json(out / "cases.json", rounded(found))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--out", type=pathlib.Path, default=DATA / "methods")
    generate(arguments.parse_args().out)
