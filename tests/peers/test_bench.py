"""The benchmark's adapters have the names and shapes of real ones."""

import json
import pathlib
import re
import sys

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from safetensors import safe_open
from support import ROOT

sys.path.insert(0, str(ROOT / "tests" / "bench"))
import adapters

DATA = ROOT / "tests" / "bench" / "data"
IMAGE = ROOT.parent / "shared" / "fixtures" / "field" / "image"


def test_the_table_kept_is_that_of_the_models():
    """JavaScript makes adapters from it."""
    assert json.loads((DATA / "sdxl.json").read_text()) == adapters.table("sdxl")


def test_the_table_holds_every_module():
    modules = {
        adapters.Module(f"{block}_{end}", d_out, d_in)
        for entry in adapters.table("sdxl")
        for block in entry["under"]
        for end, d_out, d_in in entry["layers"]
    }
    assert modules == set(adapters.sdxl())


def test_diffusers_takes_the_sdxl_adapter_for_its_own():
    """diffusers' own conversion gives back the layers of its UNet that the names were made from."""
    state = {}
    for module in adapters.sdxl():
        if module.name.startswith("lora_unet_"):
            state[f"{module.name}.lora_down.weight"] = torch.zeros(1, module.d_in)
            state[f"{module.name}.lora_up.weight"] = torch.zeros(module.d_out, 1)
            state[f"{module.name}.alpha"] = torch.tensor(1.0)
    config = adapters.sdxl_unet().config
    converted, _ = _convert_non_diffusers_lora_to_diffusers(_maybe_map_sgm_blocks_to_diffusers(state, config))
    # Attention's layers come back by the names that diffusers had for them in its processors.
    names = {re.sub(r"(\.processor)?(\.to_\w+?)?(_lora|\.lora)[._](down|up)\.weight$", r"\2", name) for name in converted}
    names = {re.sub(r"\.to_out$", ".to_out.0", name.removeprefix("unet.")) for name in names}
    layers = adapters.linear_layers(adapters.sdxl_unet())
    assert names == {name for name in layers if ".attentions." in name}


@pytest.mark.skipif(not IMAGE.is_dir(), reason="no shared fixtures beside this checkout")
@pytest.mark.parametrize(("model", "file"), [("sdxl", "sdxl_char"), ("flux", "flux_kohya")])
def test_a_real_files_modules_are_among_them(model, file):
    """Cut to fewer blocks, the fixtures have the names and shapes that sd-scripts writes."""
    made = {module.name: (module.d_out, module.d_in) for module in adapters.MODELS[model]()}
    with safe_open(IMAGE / f"{file}.safetensors", "pt") as tensors:
        ups = [name for name in tensors.keys() if name.endswith(".lora_up.weight") and name.startswith("lora_unet_")]
        assert ups
        for up in ups:
            module = up.removesuffix(".lora_up.weight")
            down = tensors.get_slice(f"{module}.lora_down.weight").get_shape()
            shape = tensors.get_slice(up).get_shape()[0], down[1]
            if len(down) == 2:  # One fixture has convolutions too, which sd-scripts train only if asked.
                assert made[module] == shape, module


def test_adapters_are_written_once_and_the_same_again(tmp_path: pathlib.Path):
    kind = adapters.Kind("llama7gb", 1, 1)
    modules = [adapters.Module("model.layers.0.self_attn.q_proj", 6, 4)]
    first, again = tmp_path / "first", tmp_path / "again"
    for folder in (first, again):
        draw = adapters.numpy.random.default_rng([0, 1])
        adapters.write_once(folder, lambda at: adapters.peft_folder(modules, kind, draw, at))
    file = "adapter_model.safetensors"
    assert (first / file).read_bytes() == (again / file).read_bytes()
    adapters.write_once(first, lambda at: pytest.fail("it is there already"))
