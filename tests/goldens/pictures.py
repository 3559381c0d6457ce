"""Makes `tests/goldens/data/pictures`: odd pictures, and what transformers' processors that use Pillow make of them.

A picture is opened as `transformers.image_utils.load_image` does (EXIF orientation applied; a processor given an open
image does not do that) and alpha is composited on white by transformers' `convert_to_rgb`, where `load_image` would
drop it. Each configuration is a `preprocessor_config.json`, read by the class that it names, of the Pillow backend.

    python tests/goldens/pictures.py [--out FOLDER]

Pictures are patterns of integers, so that they are the same everywhere. How well a file is packed depends on the zlib
and libjpeg at hand: made again, a picture has the same pixels but perhaps other bytes.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import struct
import zlib
from collections.abc import Callable

import numpy as np
import torch
from generate import write_json
from PIL import Image, ImageOps, PngImagePlugin
from safetensors.torch import save_file
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import load_image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

HERE = pathlib.Path(__file__).resolve().parent
PROCESSORS = {"ViTImageProcessor": ViTImageProcessorPil, "CLIPImageProcessor": CLIPImageProcessorPil}
ORIENTATION = 0x0112
# Larger pictures are compared after they have been resized.
LARGEST_DECODED = 4000


def pattern(width: int, height: int, channels: int = 3, deep: bool = False) -> np.ndarray:
    """(height, width, channels): slopes, a disc, a frame of one pixel, stripes as fine as pixels are, all of integers."""
    y, x = np.mgrid[:height, :width]
    slope = (x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) * 255 // max(width + height - 2, 1))
    disc = (2 * x - width) ** 2 + (2 * y - height) ** 2 < min(width, height) ** 2 // 2
    stripes = (x + 2 * y) % 2 * 60
    found = [np.where(disc, 255 - band, (band + stripes) % 256) for band in (*slope, 255 - slope[0] // 2)]
    frame = (x == 0) | (y == height - 1)
    found = [np.where(frame, 40 * (at + 1), band) for at, band in enumerate(found)]
    picture = np.stack(found[:channels], axis=-1)
    # 16 bits whose lower eight are not those of the upper, as scaled bytes would be.
    return (picture * 256 + (x * 37 + y * 91)[..., None] % 256).astype(np.uint16) if deep else picture.astype(np.uint8)


def image(width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    found = pattern(width, height, channels)
    return Image.fromarray(found[..., 0] if channels == 1 else found)


PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(pixels: np.ndarray, colour: int, interlaced: bool = False, chunks: dict[bytes, bytes] | None = None) -> bytes:
    """A PNG of 8 or 16 bits a channel; Pillow writes neither Adam7 nor 16 bits of colour."""
    depth = 8 * pixels.dtype.itemsize
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, width, -1).astype(f">u{pixels.dtype.itemsize}")
    parts = [rows[y::dy, x::dx] for x, y, dx, dy in PASSES] if interlaced else [rows]
    raw = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    written = {b"IHDR": header, **(chunks or {}), b"IDAT": zlib.compress(raw, 9), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in written.items()
    )


def palette(transparent: bool) -> Callable[[pathlib.Path], None]:
    def write(path: pathlib.Path) -> None:
        indices = pattern(21, 15, 1)[..., 0] // 16
        found = Image.fromarray(indices, "P")
        found.putpalette([value for at in range(16) for value in (at * 17, 255 - at * 11, at * at % 256)])
        more = {"transparency": bytes(255 - at * 15 for at in range(16))} if transparent else {}
        found.save(path, bits=4, **more)

    return write


def turned(orientation: int, size=(19, 11), **how) -> Callable[[pathlib.Path], None]:
    def write(path: pathlib.Path) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image(*size).save(path, exif=exif, **how)

    return write


def saved(*shape, **how) -> Callable[[pathlib.Path], None]:
    return lambda path: image(*shape).save(path, **how)


def raw(*how, **more) -> Callable[[pathlib.Path], None]:
    return lambda path: path.write_bytes(png(*how, **more))


def flat(path: pathlib.Path) -> None:
    """Large, and few bytes: areas of one colour whose edges are those of JPEG's blocks."""
    found = np.full((1500, 2000, 3), (230, 120, 40), np.uint8)
    found[320:960, 480:1600] = (20, 90, 200)
    found[480:640, 640:1280] = (250, 250, 240)
    Image.fromarray(found).save(path, quality=60, progressive=True, optimize=True)


def one_bit(path: pathlib.Path) -> None:
    Image.fromarray(pattern(17, 13, 1)[..., 0] > 120).save(path)


JPEG = dict(quality=90, subsampling=0)
PICTURES: dict[str, Callable[[pathlib.Path], None]] = {
    "rgb.png": saved(37, 23),
    "tall.png": saved(14, 33),
    "one-pixel.png": saved(1, 1),
    "column.png": saved(3, 1000),
    "row.png": saved(1000, 3),
    "as-large.png": saved(32, 32),
    "rgba.png": saved(22, 18, "RGBA"),
    "grey.png": saved(25, 16, "L"),
    "grey-alpha.png": saved(16, 25, "LA"),
    "one-bit.png": one_bit,
    "palette.png": palette(False),
    "palette-alpha.png": palette(True),
    # A colour (or a grey) that means transparent, without an alpha channel.
    "rgb-key.png": raw(pattern(18, 14), 2, chunks={b"tRNS": struct.pack(">HHH", 40, 80, 120)}),
    "grey-key.png": raw(pattern(18, 14, 1), 0, chunks={b"tRNS": struct.pack(">H", 40)}),
    "grey16.png": raw(pattern(20, 15, 1, deep=True), 0),
    "grey-alpha16.png": raw(pattern(20, 15, 2, deep=True), 4),
    "rgb16.png": raw(pattern(20, 15, 3, deep=True), 2),
    "rgba16.png": raw(pattern(20, 15, 4, deep=True), 6),
    "interlaced.png": raw(pattern(29, 21), 2, interlaced=True),
    "interlaced-small.png": raw(pattern(3, 2, 4), 6, interlaced=True),
    # Pillow takes no notice of it.
    "gamma.png": raw(pattern(16, 12), 2, chunks={b"gAMA": struct.pack(">I", 100000)}),
    "turned.png": turned(6),
    "444.jpg": saved(31, 22, **JPEG),
    "422.jpg": saved(31, 22, quality=90, subsampling=1),
    "420-odd.jpg": saved(33, 27, quality=85, subsampling=2),
    "progressive.jpg": saved(40, 26, quality=80, progressive=True),
    "grey.jpg": saved(26, 19, "L", quality=90),
    "cmyk.jpg": lambda path: image(24, 20).convert("CMYK").save(path, quality=92),
    "rgb.jpg": saved(24, 20, quality=90, keep_rgb=True),
    "restarts.jpg": saved(45, 30, quality=85, restart_marker_blocks=2),
    **{f"turned-{at}.jpg": turned(at, **JPEG) for at in range(1, 9)},
    "large.jpg": flat,
}

VIT = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 32, "width": 32}, "resample": 2,
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip
CLIP = {
    "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": 20}, "resample": 3,
    "do_center_crop": True, "crop_size": {"height": 20, "width": 20}, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": [0.48145466, 0.4578275, 0.40821073], "do_convert_rgb": True,
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
SMALL = {"size": {"height": 11, "width": 14}}
CONFIGS = {
    "bilinear": VIT,
    "bicubic": VIT | {"resample": 3, "size": {"height": 24, "width": 40}},
    "nearest": VIT | {"resample": 0} | SMALL,
    "lanczos": VIT | {"resample": 1} | SMALL,
    "box": VIT | {"resample": 4} | SMALL,
    "hamming": VIT | {"resample": 5} | SMALL,
    "clip": CLIP,
    # The crop is larger than what was resized: zeros around it, which are normalised with the rest.
    "clip-wide-crop": CLIP | {"size": {"shortest_edge": 9}, "crop_size": {"height": 12, "width": 25}},
    "edges": VIT | {"size": {"shortest_edge": 12, "longest_edge": 20}},
    "only-crop": CLIP | {"do_resize": False, "crop_size": {"height": 13, "width": 12}},
    # As older files have it: a number is a square for ViT, the shorter edge for CLIP; what is missing has a default.
    "old-vit": {"feature_extractor_type": "ViTFeatureExtractor", "size": 13, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]},
    "old-clip": {key: CLIP[key] for key in ("image_mean", "image_std")} | {"feature_extractor_type": "CLIPFeatureExtractor", "size": 10, "crop_size": 9},
    "bytes": VIT | {"do_rescale": False, "do_normalize": False} | SMALL,
    "no-rescale": VIT | {"do_rescale": False, "image_mean": [120.5, 110.0, 100.25]} | SMALL,
    "no-normalize": VIT | {"do_normalize": False} | SMALL,
    "odd-factor": VIT | {"rescale_factor": 0.0071, "image_mean": [0.1, 0.9, 1.3], "image_std": [0.7, 1.9, 0.05]} | SMALL,
}  # fmt: skip
# Every picture through these, and the chosen pictures through all.
EVERYWHERE = ["bilinear", "bicubic"]
CHOSEN = ["rgb.png", "tall.png", "row.png", "one-pixel.png", "rgba.png", "420-odd.jpg", "large.jpg"]
# And of these the numbers in f32: any picture's are the same sums of its bytes.
IN_F32 = ["rgb.png", "tall.png"]


def processor(config: dict):
    """Of the class that the file names; its older name ends in FeatureExtractor."""
    name = config.get("image_processor_type") or config["feature_extractor_type"].replace("FeatureExtractor", "ImageProcessor")
    return PROCESSORS[name].from_dict(dict(config))


def opened(path: pathlib.Path) -> Image.Image:
    """RGB, upright, on white."""
    found = ImageOps.exif_transpose(Image.open(path))
    if found.mode == "I;16":
        # Pillow would clip it, so that nearly all is white. Of colours of 16 bits it keeps the upper eight.
        return Image.fromarray((np.array(found) >> 8).astype(np.uint8)).convert("RGB")
    rgb = Image.fromarray(convert_to_rgb(found, return_numpy=True))
    if "A" not in found.getbands() and "transparency" not in found.info:
        assert np.array_equal(np.array(rgb), np.array(load_image(str(path)))), path.name
    return rgb


def expected(name: str, path: pathlib.Path) -> tuple[dict, dict[str, torch.Tensor]]:
    rgb = opened(path)
    said = {"file": name, "width": rgb.width, "height": rgb.height}
    tensors = {}
    if rgb.width * rgb.height <= LARGEST_DECODED:
        tensors["decoded"] = np.array(rgb)
    for key, config in CONFIGS.items():
        if key not in EVERYWHERE and name not in CHOSEN:
            continue
        how = processor(config)
        try:
            found = how(rgb, do_rescale=False, do_normalize=False)["pixel_values"][0]
        except ValueError as refusal:
            # The shorter edge would have no pixel left.
            assert "must be > 0" in str(refusal), refusal
            said.setdefault("refused", []).append(key)
            continue
        assert found.dtype == np.uint8
        tensors[key] = found
        if name in IN_F32:
            tensors[f"{key}.f32"] = np.asarray(how(rgb)["pixel_values"][0], np.float32)
    return said, {f"{name}/{key}": torch.from_numpy(value.copy()) for key, value in tensors.items()}


def refused(folder: pathlib.Path) -> None:
    """What is no picture, or half of one, or too much of one."""
    folder.mkdir()
    for name, write in {"half.png": saved(37, 23), "half.jpg": saved(64, 64, **JPEG)}.items():
        write(folder / name)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture\n")
    (folder / "empty.jpg").write_bytes(b"")
    # 48 megapixels in a few kilobytes.
    Image.new("1", (8000, 6000)).save(folder / "too-large.png", optimize=True)
    no_pixels = bytearray(png(pattern(1, 1), 2))
    no_pixels[16:20] = bytes(4)
    no_pixels[29:33] = struct.pack(">I", zlib.crc32(no_pixels[12:29]))
    (folder / "no-pixels.png").write_bytes(no_pixels)


def generate(out: pathlib.Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    (out / "files").mkdir(parents=True)
    found, tensors = [], {}
    for name, write in PICTURES.items():
        path = out / "files" / name
        write(path)
        said, own = expected(name, path)
        found.append(said)
        tensors |= own
    refused(out / "refused")
    save_file(tensors, out / "expected.safetensors")
    write_json(out / "pictures.json", found)
    write_json(out / "configs.json", CONFIGS)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--out", type=pathlib.Path, default=HERE / "data" / "pictures")
    generate(arguments.parse_args().out)
