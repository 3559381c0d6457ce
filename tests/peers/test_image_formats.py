"""Adapters of image models: what we read, merge and write means in diffusers what diffusers makes of the originals.

Everything runs on tiny UNets and text encoders whose modules have the true models' names. Our side is the command line.
"""

import pathlib

import images
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from regenerated import files_in, tensors_agree
from safetensors.torch import load_file, save_file
from support import GOLDENS, cli
from torch import nn

IMAGES = GOLDENS / "images"
# Both sides compute in f32; merged factors are rounded once more than the originals.
TOLERANCE = 1e-4
COMMON = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 2,
}


def sd15_unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's blocks."""
    return UNet2DConditionModel(
        **COMMON,
        block_out_channels=(8, 8, 8, 8),
        down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    )


def sdxl_unet() -> UNet2DConditionModel:
    """SDXL's blocks, with fewer transformers in the deepest."""
    return UNet2DConditionModel(
        **COMMON,
        block_out_channels=(8, 8, 8),
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
        up_block_types=(*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=8 + 6 * 4,
    )


def filled(model: nn.Module, name: str) -> nn.Module:
    numbers = images.stream(name)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(images.draw(numbers, *value.shape) * 0.3)
    return model.eval()


MODELS = {
    "sd15": {"unet": sd15_unet, "text_encoder": images.tiny_text},
    "sdxl": {"unet": sdxl_unet, "text_encoder": images.tiny_text, "text_encoder_2": images.tiny_text},
}
PIPELINES = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def kind(request):
    return request.param


def models(kind: str) -> dict[str, nn.Module]:
    return {name: filled(make(), f"{kind}/{name}") for name, make in MODELS[kind].items()}


def sgm(path: str) -> str:
    """The original code's name of a module of SDXL's UNet: two resnets and a resampler a level."""
    parts = path.split(".")
    inner = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1"}
    inner["conv_shortcut"] = "skip_connection"
    if parts[0] == "mid_block":
        at = 1 if parts[1] == "attentions" else 2 * int(parts[2])
        return ".".join(["middle_block", str(at), *(inner.get(part, part) for part in parts[3:])])
    going_up, level, layer = parts[0] == "up_blocks", int(parts[1]), int(parts[3])
    start = 3 * level + (0 if going_up else 1)
    if parts[2] == "downsamplers":
        return f"input_blocks.{start + 2}.0.op"
    if parts[2] == "upsamplers":
        return f"output_blocks.{start + 2}.2.conv"
    blocks = "output_blocks" if going_up else "input_blocks"
    at = 1 if parts[2] == "attentions" else 0
    return ".".join([blocks, str(start + layer), str(at), *(inner.get(part, part) for part in parts[4:])])


def kohya_file(kind: str, name: str, path: pathlib.Path, uniform: bool = False) -> None:
    """An adapter as sd-scripts writes it, of every layer in the blocks and of the text encoders every second.

    `uniform`: of every layer of the text encoders too, with one rank and one alpha.
    """
    numbers, tensors = images.stream(f"{kind}/{name}"), {}
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te_" if kind == "sd15" else "lora_te1_"}
    for component, model in models(kind).items():
        prefix = prefixes.get(component, "lora_te2_")
        for at, (module, layer) in enumerate(model.named_modules()):
            if not isinstance(layer, (nn.Linear, nn.Conv2d)):
                continue
            if component == "unet":
                if "_blocks." not in module and "mid_block." not in module:
                    continue
                spelled = sgm(module) if kind == "sdxl" else module
            elif at % 2 and not uniform:
                continue
            else:
                spelled = f"text_model.{module.removeprefix('text_model.')}"
            rank = 4 if uniform else 2 + at % 3
            kernel = layer.kernel_size if isinstance(layer, nn.Conv2d) else ()
            stem = prefix + spelled.replace(".", "_")
            width = layer.weight.shape[1]
            tensors[f"{stem}.lora_down.weight"] = images.draw(numbers, rank, width, *kernel) * 0.3
            tensors[f"{stem}.lora_up.weight"] = (
                images.draw(numbers, layer.weight.shape[0], rank, *[1 for _ in kernel]) * 0.3
            )
            tensors[f"{stem}.alpha"] = torch.tensor(2.0 if uniform else [1.0, 0.5 * rank, 4.0][at % 3])
    save_file(tensors, path)


def deltas_of(kind: str, path: pathlib.Path) -> dict[str, torch.Tensor]:
    """By diffusers' path, as diffusers' own converters understand a file of kohya's."""
    return {key.removesuffix("/delta"): value for key, value in images.from_kohya(load_file(path)).items()}


def moved(kind: str, files: list[tuple[pathlib.Path, float]]) -> dict[str, nn.Module]:
    """The models with the adapters' products added to their weights."""
    found = models(kind)
    for file, weight in files:
        for path, delta in deltas_of(kind, file).items():
            component, module = path.split(".", 1)
            if component != "unet" and not hasattr(found[component], "text_model"):
                module = module.removeprefix("text_model.")
            with torch.no_grad():
                found[component].get_submodule(module).weight.add_(weight * delta)
    return found


def loaded(kind: str, file: pathlib.Path) -> dict[str, nn.Module]:
    """The models with a file loaded by diffusers."""
    found, pipeline = models(kind), PIPELINES[kind]
    state, alphas, metadata = pipeline.lora_state_dict(
        str(file.parent), weight_name=file.name, unet_config=found["unet"].config, return_lora_metadata=True
    )
    pipeline.load_lora_into_unet(state, network_alphas=alphas, unet=found["unet"], metadata=metadata)
    for name in MODELS[kind]:
        if name != "unet":
            pipeline.load_lora_into_text_encoder(
                state, network_alphas=alphas, text_encoder=found[name], prefix=name, metadata=metadata
            )
    return found


def outputs(kind: str, found: dict[str, nn.Module]) -> torch.Tensor:
    numbers = images.stream(f"{kind}/inputs")
    more = {}
    if kind == "sdxl":
        more = {"added_cond_kwargs": {"text_embeds": images.draw(numbers, 2, 8), "time_ids": torch.ones(2, 6)}}
    with torch.no_grad():
        picture = found["unet"](images.draw(numbers, 2, 4, 16, 16), 7, images.draw(numbers, 2, 5, 8), **more).sample
        ids = torch.tensor([[18, 3, 5, 7, 19]])
        texts = [found[name](ids).last_hidden_state.flatten() for name in MODELS[kind] if name != "unet"]
    return torch.cat([picture.flatten(), *texts])


def same(found: torch.Tensor, wanted: torch.Tensor, base: torch.Tensor) -> None:
    """As near as f32 lets them, and far from where the models were before."""
    assert float((found - wanted).abs().max()) < TOLERANCE * float(wanted.abs().max())
    assert float((wanted - base).abs().max()) > 0.05 * float(base.abs().max()), "the adapters do nothing"


def merge(out: pathlib.Path, files: list[tuple[pathlib.Path, float]], *more: object) -> pathlib.Path:
    """The file that a merge writes."""
    words: list[object] = ["merge", "--method", "linear", "--out", out]
    for file, weight in files:
        words += ["--adapter", file, "--weight", weight]
    code, said, error = cli(*words, *more)
    assert code == 0, (said, error)
    (written,) = out.glob("*.safetensors")
    return written


@pytest.fixture(scope="module")
def originals(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp(kind)
    for name in ("a", "b"):
        kohya_file(kind, name, folder / f"{name}.safetensors")
    return [folder / "a.safetensors", folder / "b.safetensors"]


def test_goldens_come_out_the_same(tmp_path):
    images.generate(tmp_path / "images")
    assert files_in(tmp_path / "images") == files_in(IMAGES)
    for name in files_in(IMAGES):
        tensors_agree(IMAGES / name, tmp_path / "images" / name)


def test_one_adapter_of_kohyas_in_diffusers_format(kind, originals, tmp_path):
    written = merge(tmp_path / "out", [(originals[0], 1)], "--format", "diffusers")
    base, wanted = outputs(kind, models(kind)), outputs(kind, moved(kind, [(originals[0], 1)]))
    same(outputs(kind, loaded(kind, written)), wanted, base)


def test_diffusers_loads_the_original_and_ours_alike(kind, tmp_path):
    """With one rank and one alpha: diffusers 0.42 loses track of alphas that differ from module to module."""
    kohya_file(kind, "uniform", tmp_path / "a.safetensors", uniform=True)
    written = merge(tmp_path / "out", [(tmp_path / "a.safetensors", 1)], "--format", "diffusers")
    base, wanted = outputs(kind, models(kind)), outputs(kind, loaded(kind, tmp_path / "a.safetensors"))
    same(outputs(kind, loaded(kind, written)), wanted, base)


def test_two_adapters_of_kohyas_in_diffusers_format(kind, originals, tmp_path):
    files = [(originals[0], 0.75), (originals[1], -0.5)]
    written = merge(tmp_path / "out", files, "--format", "diffusers")
    base, wanted = outputs(kind, models(kind)), outputs(kind, moved(kind, files))
    same(outputs(kind, loaded(kind, written)), wanted, base)


def test_two_adapters_of_kohyas_in_kohyas_format(kind, originals, tmp_path):
    files = [(originals[0], 0.75), (originals[1], -0.5)]
    written = merge(tmp_path / "out", files, "--format", "kohya")
    wanted, found = moved(kind, files), moved(kind, [(written, 1)])
    same(outputs(kind, found), outputs(kind, wanted), outputs(kind, models(kind)))
    assert {key.split(".")[0] for key in load_file(written)} == {key.split(".")[0] for key in load_file(originals[0])}


def test_kohya_and_back_is_the_same_bit_by_bit(kind, originals, tmp_path):
    written = load_file(merge(tmp_path / "out", [(originals[0], 1)], "--format", "kohya", "--dtype", "f32"))
    original = load_file(originals[0])
    assert written.keys() == original.keys()
    for key, value in original.items():
        assert torch.equal(written[key], value), key


def test_diffusers_and_back_means_the_same(kind, originals, tmp_path):
    first = merge(tmp_path / "first", [(originals[0], 1)], "--format", "diffusers")
    second = merge(tmp_path / "second", [(first, 1)], "--format", "diffusers")
    base, wanted = outputs(kind, models(kind)), outputs(kind, loaded(kind, first))
    same(outputs(kind, loaded(kind, second)), wanted, base)


def test_an_adapter_of_kohyas_merges_with_one_of_diffusers(kind, originals, tmp_path):
    """They share every module, so ranks add up and none is written twice."""
    other = merge(tmp_path / "other", [(originals[1], 1)], "--format", "diffusers")
    written = merge(tmp_path / "out", [(originals[0], 1), (other, 1)], "--format", "diffusers")
    base, wanted = outputs(kind, models(kind)), outputs(kind, moved(kind, [(file, 1) for file in originals]))
    same(outputs(kind, loaded(kind, written)), wanted, base)


@pytest.mark.parametrize("case", ["old", "pipeline"])
def test_files_of_diffusers_own_are_what_diffusers_reads(case, tmp_path):
    written = load_file(merge(tmp_path / "out", [(IMAGES / case / "adapter.safetensors", 1)], "--format", "diffusers"))
    expected = load_file(IMAGES / case / "expected.safetensors")
    for key, delta in expected.items():
        path = key.removesuffix("/delta")
        of_text = path.startswith("text")
        lower, upper = ("lora_linear_layer.down", "lora_linear_layer.up") if of_text else ("lora_A", "lora_B")
        product = images.product(written[f"{path}.{upper}.weight"], written[f"{path}.{lower}.weight"])
        assert torch.allclose(product, delta, rtol=1e-5, atol=1e-5), path


def test_an_adapter_of_flux_is_converted_as_diffusers_does(tmp_path):
    """At full width, which diffusers' converter has written into it."""
    width, mlp, numbers = 3072, 12288, images.stream("flux/wide")
    tensors = {}
    for name, outs, ins, rank in [
        ("single_blocks_0_linear1", 3 * width + mlp, width, 2),
        ("single_blocks_0_linear2", width, width + mlp, 1),
        ("double_blocks_1_img_attn_qkv", 3 * width, width, 3),
        ("double_blocks_1_txt_mlp_2", width, mlp, 1),
    ]:
        tensors[f"lora_unet_{name}.lora_down.weight"] = images.draw(numbers, rank, ins)
        tensors[f"lora_unet_{name}.lora_up.weight"] = images.draw(numbers, outs, rank)
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(0.5)
    save_file(tensors, tmp_path / "flux.safetensors")
    wanted = _convert_kohya_flux_lora_to_diffusers({key: value.clone() for key, value in tensors.items()})
    files = [(tmp_path / "flux.safetensors", 1)]
    found = load_file(merge(tmp_path / "out", files, "--format", "diffusers"))
    assert found.keys() == wanted.keys()
    for key in wanted:
        if key.endswith("lora_A.weight"):
            # A few rows are enough: the product has as many as the model.
            rows = torch.arange(0, wanted[key.replace("lora_A", "lora_B")].shape[0], 257)
            ours = found[key.replace("lora_A", "lora_B")][rows] @ found[key]
            theirs = wanted[key.replace("lora_A", "lora_B")][rows] @ wanted[key]
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4), key
    back = load_file(merge(tmp_path / "back", files, "--format", "kohya", "--dtype", "f32"))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], value) for key, value in tensors.items())


BLOCK = {"attn.qkv": (24, 8), "attn.proj": (8, 8), "mlp.fc1": (32, 8), "mlp.fc2": (8, 32)}
SD3 = {
    **{f"joint_blocks.{i}.x_block.{name}": size for i in range(2) for name, size in BLOCK.items()},
    **{f"joint_blocks.0.x_block.attn2.{name}": BLOCK[f"attn.{name}"] for name in ("qkv", "proj")},
    "joint_blocks.0.x_block.adaLN_modulation.1": (72, 8),
    "joint_blocks.1.x_block.adaLN_modulation.1": (48, 8),
    **{f"joint_blocks.0.context_block.{name}": size for name, size in BLOCK.items()},
    "joint_blocks.0.context_block.adaLN_modulation.1": (48, 8),
    "joint_blocks.1.context_block.attn.qkv": (24, 8),
    "joint_blocks.1.context_block.adaLN_modulation.1": (16, 8),
    **{name: (8, 8) for name in ("context_embedder", "t_embedder.mlp.0", "t_embedder.mlp.2")},
    **{name: (8, 8) for name in ("y_embedder.mlp.0", "y_embedder.mlp.2", "final_layer.linear")},
    "final_layer.adaLN_modulation.1": (16, 8),
}
DOUBLE = {"attn.qkv": (24, 8), "attn.proj": (8, 8), "mlp.0": (32, 8), "mlp.2": (8, 32), "mod.lin": (48, 8)}
FLUX = {
    **{f"double_blocks.0.{side}_{name}": size for side in ("img", "txt") for name, size in DOUBLE.items()},
    "single_blocks.0.linear2": (8, 40),
    "single_blocks.0.modulation.lin": (24, 8),
    **{name: (8, 8) for name in ("img_in", "txt_in", "final_layer.linear")},
    **{f"{name}_in.{end}_layer": (8, 8) for name in ("time", "vector", "guidance") for end in ("in", "out")},
    "final_layer.adaLN_modulation.1": (16, 8),
}
# What the converters want to find beside the layers; Flux.1's has the width of one layer written into it.
BESIDE_SD3 = {
    "pos_embed": torch.zeros(1),
    "x_embedder.proj.weight": torch.zeros(8, 4, 2, 2),
    "x_embedder.proj.bias": torch.zeros(8),
}
BESIDE_FLUX = {
    **{
        f"{stem}.{side}_norm.scale": torch.zeros(2)
        for stem in ("double_blocks.0.img_attn.norm", "double_blocks.0.txt_attn.norm", "single_blocks.0.norm")
        for side in ("query", "key")
    },
    "single_blocks.0.linear1.weight": torch.zeros(21504, 1),
    "single_blocks.0.linear1.bias": torch.zeros(21504),
}


@pytest.mark.parametrize(
    ("layers", "beside", "convert"),
    [
        (SD3, BESIDE_SD3, convert_sd3_transformer_checkpoint_to_diffusers),
        (FLUX, BESIDE_FLUX, convert_flux_transformer_checkpoint_to_diffusers),
    ],
    ids=["sd3", "flux"],
)
def test_a_transformers_layers_are_mapped_as_diffusers_maps_their_weights(layers, beside, convert, tmp_path):
    """An adapter whose products are the weights: our way with the one is diffusers' way with the other."""
    numbers, adapter, checkpoint = images.stream("transformers"), {}, dict(beside)
    for layer, (outs, ins) in layers.items():
        stem = "lora_unet_" + layer.replace(".", "_")
        weight = images.draw(numbers, outs, ins)
        adapter |= {f"{stem}.lora_down.weight": torch.eye(ins), f"{stem}.lora_up.weight": weight}
        checkpoint |= {f"{layer}.weight": weight, f"{layer}.bias": torch.zeros(outs)}
    save_file(adapter, tmp_path / "adapter.safetensors")
    found = load_file(merge(tmp_path / "out", [(tmp_path / "adapter.safetensors", 1)], "--format", "diffusers"))
    wanted = {
        key.removesuffix(".weight"): value
        for key, value in convert(checkpoint).items()
        if key.endswith(".weight") and value.ndim == 2 and value.shape[1] > 1
    }
    start, end = "transformer.", ".lora_A.weight"
    assert set(wanted) == {key[len(start) : -len(end)] for key in found if key.endswith(end)}
    for module, weight in wanted.items():
        product = found[f"{start}{module}.lora_B.weight"] @ found[f"{start}{module}{end}"]
        assert torch.allclose(product, weight, atol=1e-5), module
