"""Makes `tests/goldens/data/images`: adapters of image models as tools write them, and what diffusers reads in them.

An adapter is 8 wide, under the true names of a true model's modules. What it must mean comes from diffusers' own
converters (names, and which rows are whose), from PEFT where PEFT wrote it, and from running the layers of a Tucker
decomposition one after another. Only the products `alpha / rank * up @ down` are taken here, in f64.

    python tests/goldens/images.py [--out FOLDER]

A case is a folder of `adapter.safetensors` and `expected.safetensors`: by path and in f32, `delta` (d_out, d_in,
kernel…) and `magnitude` where there is one.
"""

from __future__ import annotations

import argparse
import copy
import json
import pathlib
import shutil
import tempfile
import zlib
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_kohya_flux_lora_to_diffusers,
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from oracle import delta_weight
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

HERE = pathlib.Path(__file__).resolve().parent
WIDTH = 8
Tensors = dict[str, torch.Tensor]

UNET_ATTENTION = ["attn1_to_q", "attn1_to_k", "attn1_to_v", "attn1_to_out_0", "attn2_to_q", "ff_net_0_proj", "ff_net_2"]
CLIP = ["self_attn_q_proj", "self_attn_v_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2"]

SD15 = [
    "lora_unet_conv_in:3",
    "lora_unet_time_embedding_linear_1",
    "lora_unet_down_blocks_0_resnets_1_conv1:3",
    "lora_unet_down_blocks_0_resnets_1_time_emb_proj",
    "lora_unet_down_blocks_2_downsamplers_0_conv:3",
    "lora_unet_mid_block_attentions_0_proj_in:1",
    "lora_unet_mid_block_resnets_1_conv2:3",
    "lora_unet_up_blocks_1_upsamplers_0_conv:3",
    "lora_unet_up_blocks_3_resnets_2_conv_shortcut:1",
    *[f"lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_{module}" for module in UNET_ATTENTION],
    *[f"lora_te_text_model_encoder_layers_11_{module}" for module in CLIP],
]

SDXL = [
    "lora_unet_input_blocks_1_0_in_layers_2:3",
    "lora_unet_input_blocks_1_0_emb_layers_1",
    "lora_unet_input_blocks_3_0_op:3",
    "lora_unet_input_blocks_7_0_skip_connection:1",
    "lora_unet_input_blocks_5_1_proj_in",
    "lora_unet_middle_block_0_out_layers_3:3",
    "lora_unet_middle_block_1_proj_out",
    "lora_unet_output_blocks_2_2_conv:3",
    "lora_unet_output_blocks_5_0_in_layers_2:3",
    *[f"lora_unet_input_blocks_8_1_transformer_blocks_9_{module}" for module in UNET_ATTENTION],
    *[f"lora_unet_middle_block_1_transformer_blocks_0_{module}" for module in UNET_ATTENTION[:2]],
    *[f"lora_unet_output_blocks_3_1_transformer_blocks_1_{module}" for module in UNET_ATTENTION[3:]],
    *[f"lora_te1_text_model_encoder_layers_0_{module}" for module in CLIP],
    *[f"lora_te2_text_model_encoder_layers_31_{module}" for module in CLIP],
]

# With the outputs as multiples of the width; single blocks' linear1 is 3072 wide in diffusers' converter, and left out.
FLUX = [
    "lora_unet_double_blocks_0_img_attn_qkv*3",
    "lora_unet_double_blocks_18_txt_attn_qkv*3",
    "lora_unet_double_blocks_18_img_attn_proj",
    "lora_unet_double_blocks_18_txt_attn_proj",
    "lora_unet_double_blocks_3_img_mlp_0*4",
    "lora_unet_double_blocks_3_txt_mlp_0*4",
    "lora_unet_double_blocks_3_img_mod_lin*6",
    "lora_unet_double_blocks_3_txt_mod_lin*6",
    "lora_unet_single_blocks_37_modulation_lin*3",
    "lora_unet_final_layer_linear",
    "lora_unet_final_layer_adaLN_modulation_1*2",
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1",
]


def stream(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(f"images/{name}".encode())))


def draw(numbers: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(numbers.standard_normal(shape).astype(np.float32))


def kohya(name: str, modules: list[str]) -> Tensors:
    """`X:k` is a convolution of side k, `X*n` a layer with n times the outputs. Ranks are 2 to 4, alphas all kinds."""
    numbers, tensors = stream(name), {}
    for at, module in enumerate(modules):
        module, _, side = module.partition(":")
        module, _, times = module.partition("*")
        rank, outputs = 2 + at % 3, WIDTH * int(times or 1)
        kernel, point = ([int(side)] * 2, [1, 1]) if side else ([], [])
        tensors[f"{module}.lora_down.weight"] = draw(numbers, rank, WIDTH, *kernel)
        tensors[f"{module}.lora_up.weight"] = draw(numbers, outputs, rank, *point)
        # One alpha in five is missing: then the scale is 1.
        if at % 5:
            tensors[f"{module}.alpha"] = torch.tensor([0.7, 1.0, float(rank), 16.0][at % 4])
    return tensors


def product(up: torch.Tensor, down: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    delta = scale * up.double().flatten(1) @ down.double().flatten(1)
    return delta.reshape(up.shape[0], *down.shape[1:]).float().contiguous()


def deltas(converted: Tensors, alphas: dict[str, float]) -> Tensors:
    """Products of what diffusers' converters made of a file, by the path that its loaders then give it."""
    named = {}
    for key, value in converted.items():
        rename = convert_unet_state_dict_to_peft if key.startswith(("unet.", "transformer.")) else modern
        ((key, value),) = rename({key: value}).items()
        named[key] = value
    scales = {path_of(key.removesuffix(".alpha")): alpha for key, alpha in alphas.items()}
    expected = {}
    for key, down in named.items():
        if key.endswith(".lora_A.weight"):
            path = key.removesuffix(".lora_A.weight")
            up = named[f"{path}.lora_B.weight"]
            alpha = scales.get(path)
            scale = 1.0 if alpha is None else alpha / down.shape[0]
            expected[f"{component(path)}/delta"] = product(up, down, scale)
    return expected


def modern(state: Tensors) -> Tensors:
    """The text encoders' names; the converter wants to see a whole file's."""
    ((key, value),) = state.items()
    if "lora_A" in key or "lora_B" in key:
        return state
    out = dict(convert_state_dict_to_peft({key: value, "to_out_lora.x": value, "lora_linear_layer": value}))
    return {next(iter(out)): value}


def path_of(key: str) -> str:
    """The module that one of the converter's alphas is for."""
    rename = convert_unet_state_dict_to_peft if key.startswith(("unet.", "transformer.")) else modern
    key = key.removesuffix(".down.weight").removesuffix(".weight") + (
        ".down.weight" if key.endswith(".down.weight") else ".lora.down.weight"
    )
    (name,) = rename({key: torch.zeros(1)})
    return name.removesuffix(".lora_A.weight").removesuffix(".lora.down.weight")


def component(path: str) -> str:
    """Some of the flux converter's names lack the component."""
    known = path.startswith(("unet.", "transformer.", "text_encoder"))
    return path if known else f"transformer.{path}"


def from_kohya(tensors: Tensors) -> Tensors:
    mapped = _maybe_map_sgm_blocks_to_diffusers(dict(tensors), SimpleNamespace(layers_per_block=2))
    return deltas(*_convert_non_diffusers_lora_to_diffusers(mapped))


def flux() -> tuple[Tensors, Tensors]:
    tensors = kohya("flux", FLUX)
    # As sd-scripts writes a layer whose parts were trained apart: a block-diagonal upper factor.
    numbers, name = stream("flux/apart"), "lora_unet_double_blocks_5_img_attn_qkv"
    tensors[f"{name}.lora_down.weight"] = draw(numbers, 6, WIDTH)
    tensors[f"{name}.lora_up.weight"] = torch.block_diag(*[draw(numbers, WIDTH, 2) for _ in range(3)])
    tensors[f"{name}.alpha"] = torch.tensor(3.0)
    # The converter leaves the final layer's alphas out ("TODO: alphas"), so they say nothing here.
    for key in [key for key in tensors if "final_layer" in key and key.endswith(".alpha")]:
        del tensors[key]
    # It scales text encoders' factors in place.
    own = {key: value.clone() for key, value in tensors.items()}
    return tensors, deltas(_convert_kohya_flux_lora_to_diffusers(own), {})


def dora() -> tuple[Tensors, Tensors]:
    modules = [
        "lora_unet_down_blocks_0_resnets_1_conv1:3",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0",
    ]
    tensors, numbers, magnitudes = kohya("dora", modules), stream("dora/scale"), {}
    paths = [
        "unet.down_blocks.0.resnets.1.conv1",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
    ]
    for module, path in zip(modules, paths):
        module, _, side = module.partition(":")
        scale = draw(numbers, WIDTH, 1, *([1, 1] if side else [])).abs()
        tensors[f"{module}.dora_scale"] = scale
        magnitudes[f"{path}/magnitude"] = scale.flatten()
    plain = {key: value for key, value in tensors.items() if not key.endswith("dora_scale")}
    return tensors, from_kohya(plain) | magnitudes


def tucker() -> tuple[Tensors, Tensors]:
    """A convolution in three steps; its weight is what it answers to single pixels."""
    numbers, name, rank, width = stream("tucker"), "lora_unet_mid_block_resnets_0_conv1", 3, 5
    down, mid, up = draw(numbers, rank, width, 1, 1), draw(numbers, rank, rank, 3, 3), draw(numbers, WIDTH, rank, 1, 1)
    tensors = {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_mid.weight": mid,
        f"{name}.lora_up.weight": up,
        f"{name}.alpha": torch.tensor(2.0),
    }
    pixels = torch.zeros(width, width, 5, 5, dtype=torch.float64)
    for channel in range(width):
        pixels[channel, channel, 2, 2] = 1
    answer = functional.conv2d(pixels, down.double())
    answer = functional.conv2d(answer, mid.double(), padding=1)
    answer = functional.conv2d(answer, up.double())
    # The answer to one pixel is the kernel turned round.
    weight = answer[:, :, 1:4, 1:4].flip(2, 3).transpose(0, 1) * (2.0 / rank)
    return tensors, {"unet.mid_block.resnets.0.conv1/delta": weight.float().contiguous()}


def old() -> tuple[Tensors, Tensors]:
    """diffusers' first layout: attention processors, and text encoders in their likeness."""
    numbers, tensors = stream("old"), {}
    unet = "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.processor"
    text = "text_encoder.text_model.encoder.layers.0.self_attn"
    for at, name in enumerate(["to_q_lora", "to_k_lora", "to_v_lora", "to_out_lora"]):
        for stem in (unet, text):
            tensors[f"{stem}.{name}.down.weight"] = draw(numbers, 2 + at % 2, WIDTH)
            tensors[f"{stem}.{name}.up.weight"] = draw(numbers, WIDTH, 2 + at % 2)
    return tensors, deltas(tensors, {})


def tiny_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(WIDTH, WIDTH),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=2,
    )


def tiny_text() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=20,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        projection_dim=WIDTH,
        bos_token_id=18,
        eos_token_id=19,
    )
    return CLIPTextModel(config)


def pipeline() -> tuple[Tensors, Tensors, dict[str, str]]:
    """What diffusers' training scripts save today: PEFT's factors, PEFT's configuration in the header."""
    numbers, expected, layers, said = stream("pipeline"), {}, {}, {}
    configs = {
        "unet": LoraConfig(
            r=2,
            lora_alpha=3,
            target_modules=[
                "down_blocks.0.resnets.0.conv1",
                "mid_block.attentions.0.proj_in",
                "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
                "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
            ],
            rank_pattern={"to_q": 3},
            alpha_pattern={"conv1": 5},
            use_rslora=True,
        ),
        "text_encoder": LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "fc1"]),
    }
    for name, model in (("unet", tiny_unet()), ("text_encoder", tiny_text())):
        model.add_adapter(configs[name])
        layers[name] = {}
        for path, layer in model.named_modules():
            if not isinstance(layer, LoraLayer):
                continue
            for side, factor in (("A", layer.lora_A["default"]), ("B", layer.lora_B["default"])):
                factor.weight.data = draw(numbers, *factor.weight.shape)
                layers[name][f"{path}.lora_{side}.weight"] = factor.weight.data
            inner = f"text_model.{path}" if name == "text_encoder" else path
            expected[f"{name}.{inner}/delta"] = delta_weight(copy.deepcopy(layer)).float().contiguous()
        said[f"{name}_lora_adapter_metadata"] = configs[name].to_dict()
    with tempfile.TemporaryDirectory() as folder:
        StableDiffusionPipeline.save_lora_weights(
            folder,
            # As the training scripts do.
            unet_lora_layers=convert_state_dict_to_diffusers(layers["unet"]),
            text_encoder_lora_layers=convert_state_dict_to_diffusers(layers["text_encoder"]),
            **{key: {name: plain(value) for name, value in config.items()} for key, config in said.items()},
        )
        path = pathlib.Path(folder) / "pytorch_lora_weights.safetensors"
        header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
        return load_file(path), expected, header["__metadata__"]


def plain(value):
    """Sets in an order that is the same from run to run."""
    return sorted(value) if isinstance(value, set) else value


def cases() -> dict[str, tuple]:
    sd15, sdxl = kohya("sd15", SD15), kohya("sdxl", SDXL)
    return {
        "sd15": (sd15, from_kohya(sd15)),
        "sdxl": (sdxl, from_kohya(sdxl)),
        "flux": flux(),
        "dora": dora(),
        "tucker": tucker(),
        "old": old(),
        "pipeline": pipeline(),
    }


def generate(out: pathlib.Path) -> None:
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    for name, (tensors, expected, *metadata) in cases().items():
        (out / name).mkdir(parents=True)
        save_file(tensors, out / name / "adapter.safetensors", metadata=metadata[0] if metadata else {"format": "pt"})
        save_file(expected, out / name / "expected.safetensors")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--out", type=pathlib.Path, default=HERE / "data" / "images")
    generate(arguments.parse_args().out)
