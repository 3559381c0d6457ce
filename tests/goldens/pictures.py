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


def gif(path: pathlib.Path, size=(21, 15), canvas=None, at=(0, 0), colours=16, **how) -> None:
    """Of the palette above, and where it is said on another canvas than its own."""
    found = Image.fromarray(pattern(*size, 1)[..., 0] // 16, "P")
    found.putpalette([value for at in range(colours) for value in (at * 17, 255 - at * 11, at * at % 256)])
    found.save(path, **({"interlace": 0, "optimize": False} | how))
    if canvas:
        written = bytearray(path.read_bytes())
        place = written.index(b"," + struct.pack("<HHHH", 0, 0, *size))
        written[6:10] = struct.pack("<HH", *canvas)
        written[place + 1 : place + 5] = struct.pack("<HH", *at)
        path.write_bytes(written)


def given(write: Callable, *how, **more) -> Callable[[pathlib.Path], None]:
    return lambda path: write(path, *how, **more)


def animated(path: pathlib.Path, alpha: bool, **how) -> None:
    """Two pictures, of which the first does not cover the canvas."""
    mode = "RGBA" if alpha else "RGB"
    frames = [image(20, 14, mode), image(20, 14, mode).transpose(Image.Transpose.ROTATE_180)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, **how)
    written = bytearray(path.read_bytes())
    # The canvas, as width and height less one of three bytes each, and where the first frame is, in steps of two.
    written[24:30] = (25).to_bytes(3, "little") + (19).to_bytes(3, "little")
    frame = written.index(b"ANMF") + 8
    written[frame : frame + 6] = (2).to_bytes(3, "little") + (1).to_bytes(3, "little")
    path.write_bytes(written)


def bmp(path: pathlib.Path, bits: int, data: bytes, size=(21, 15), compression=0, palette=b"", masks=b"", header=40) -> None:
    """A negative height says that the upper row comes first. A header of 12 bytes is OS/2's."""
    width, height = size
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        colours = len(palette) // 4
        info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, len(data), 2835, 2835, colours, 0)
        info += masks + bytes(max(header - 40 - len(masks), 0))
    start = 14 + len(info) + len(palette)
    path.write_bytes(b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + palette + data)


def bmp_rows(rows: list[bytes]) -> bytes:
    return b"".join(row + bytes(-len(row) % 4) for row in rows)


BMP_INDICES = pattern(21, 15, 1)[..., 0] // 16
BMP_PALETTE = b"".join(bytes((at * at % 256, 255 - at * 11, at * 17, 0)) for at in range(16))
BMP_MASKS_565 = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
BMP_MASKS_RGBA = struct.pack("<IIII", 0xFF, 0xFF00, 0xFF0000, 0xFF000000)


def packed(indices: np.ndarray, bits: int) -> bytes:
    """Rows of indices of so many bits, the upper bits first."""
    each = np.unpackbits(indices.astype(np.uint8)[..., None], axis=-1)[..., -bits:]
    return bmp_rows([np.packbits(row.ravel()).tobytes() for row in each])


def words(shifts: tuple[int, int, int], lost: tuple[int, int, int]) -> bytes:
    """Rows of 16 bits a pixel: red, green and blue shifted to where they stand, the lower bits of each lost."""
    colours = [pattern(21, 15)[..., at].astype(np.uint16) >> lost[at] << shifts[at] for at in range(3)]
    return bmp_rows([row.astype("<u2").tobytes() for row in colours[0] | colours[1] | colours[2]])


def run_lengths(indices: np.ndarray, nibbles: bool) -> bytes:
    """Runs, literal stretches, a gap that is left out, and an end of every row."""
    parts = []
    for at, row in enumerate(indices):
        values = row.tolist()
        literal = values[:5]
        if nibbles:
            filled = literal + [0] * (-len(literal) % 4)
            body = bytes(a << 4 | b for a, b in zip(filled[::2], filled[1::2], strict=True))
        else:
            body = bytes(literal) + bytes(len(literal) % 2)
        parts.append(bytes((0, len(literal))) + body)
        rest = values[5:]
        if at % 4 == 3:
            # Three pixels to the right, which stay 0.
            parts.append(bytes((0, 2, 3, 0)))
            rest = rest[3:]
        while rest:
            length = next((i for i, value in enumerate(rest) if value != rest[0]), len(rest))
            parts.append(bytes((length, rest[0] * 17 if nibbles else rest[0])))
            rest = rest[length:]
        parts.append(b"\0\0")
    return b"".join(parts) + b"\0\1"


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
    "lossy.webp": saved(37, 23, quality=80),
    "lossy-even.webp": saved(48, 32, quality=60),
    "one-pixel.webp": saved(1, 1, quality=80),
    "column.webp": saved(3, 1000, quality=40),
    "lossless.webp": saved(37, 23, lossless=True),
    "lossless-alpha.webp": saved(22, 18, "RGBA", lossless=True),
    "lossy-alpha.webp": saved(22, 18, "RGBA", quality=80),
    "lossy-alpha-cut.webp": saved(22, 18, "RGBA", quality=80, alpha_quality=30),
    "grey.webp": saved(25, 16, "L", quality=75),
    "animated.webp": given(animated, False, lossless=True),
    "animated-lossy.webp": given(animated, False, quality=80),
    "animated-alpha.webp": given(animated, True, lossless=True),
    "animated-lossy-alpha.webp": given(animated, True, quality=80),
    **{f"turned-{at}.webp": turned(at, lossless=True) for at in (3, 6, 7)},
    "palette.gif": given(gif),
    "interlaced.gif": given(gif, size=(33, 27), interlace=1),
    "transparent.gif": given(gif, transparency=5),
    "small-frame.gif": given(gif, canvas=(30, 24), at=(4, 7)),
    "small-frame-transparent.gif": given(gif, canvas=(30, 24), at=(4, 7), transparency=5),
    "large-frame.gif": given(gif, canvas=(12, 9), at=(2, 3)),
    # Indices that the palette does not have.
    "short-palette.gif": given(gif, colours=8),
    "grey.gif": lambda path: image(25, 16, "L").save(path),
    "animated.gif": lambda path: image(20, 14).quantize(12).save(
        path, save_all=True, append_images=[image(20, 14).transpose(Image.Transpose.ROTATE_180).quantize(12)], duration=50
    ),
    "one-pixel.gif": saved(1, 1),
    "1.bmp": given(bmp, 1, packed(BMP_INDICES > 7, 1), palette=BMP_PALETTE[8:16]),
    "1-white.bmp": lambda path: Image.fromarray(pattern(17, 13, 1)[..., 0] > 120).save(path),
    "4.bmp": given(bmp, 4, packed(BMP_INDICES, 4), palette=BMP_PALETTE),
    "4-short.bmp": given(bmp, 4, packed(BMP_INDICES, 4), palette=BMP_PALETTE[:32]),
    "8.bmp": given(bmp, 8, packed(BMP_INDICES, 8), palette=BMP_PALETTE),
    "8-grey.bmp": lambda path: image(25, 16, "L").save(path),
    "os2.bmp": given(
        bmp, 8, packed(BMP_INDICES, 8), header=12, palette=(b"".join(BMP_PALETTE[at : at + 3] for at in range(0, 64, 4))).ljust(768, b"\0")
    ),
    "16.bmp": given(bmp, 16, words((10, 5, 0), (3, 3, 3))),
    "16-565.bmp": given(bmp, 16, words((11, 5, 0), (3, 2, 3)), compression=3, masks=BMP_MASKS_565),
    "24.bmp": saved(37, 23),
    "24-top-down.bmp": given(bmp, 24, bmp_rows([row[:, ::-1].tobytes() for row in pattern(21, 15)]), size=(21, -15)),
    # Without masks the fourth byte means nothing.
    "32.bmp": given(bmp, 32, pattern(21, 15, 4).tobytes()),
    "32-alpha.bmp": given(bmp, 32, pattern(21, 15, 4).tobytes(), compression=3, masks=BMP_MASKS_RGBA, header=124),
    "32-saved.bmp": saved(22, 18, "RGBA"),
    "rle8.bmp": given(bmp, 8, run_lengths(BMP_INDICES, False), compression=1, palette=BMP_PALETTE),
    "rle4.bmp": given(bmp, 4, run_lengths(BMP_INDICES, True), compression=2, palette=BMP_PALETTE),
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
    halves = {
        "half.png": saved(37, 23), "half.jpg": saved(64, 64, **JPEG), "half.webp": saved(64, 64, quality=90),
        "half-lossless.webp": saved(64, 64, lossless=True), "half.gif": given(gif), "half.bmp": saved(17, 13),
        "half-rle.bmp": PICTURES["rle8.bmp"],
    }  # fmt: skip
    for name, write in halves.items():
        write(folder / name)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture\n")
    (folder / "empty.jpg").write_bytes(b"")
    # 48 megapixels in a few kilobytes.
    Image.new("1", (8000, 6000)).save(folder / "too-large.png", optimize=True)
    # A canvas and a frame of 65,535 x 65,535, in a few bytes.
    gif(folder / "too-large.gif")
    bomb = bytearray((folder / "too-large.gif").read_bytes())
    place = bomb.index(b"," + struct.pack("<HHHH", 0, 0, 21, 15))
    bomb[place + 5 : place + 9] = b"\xff\xff\xff\xff"
    (folder / "too-large.gif").write_bytes(bomb)
    bmp(folder / "too-large.bmp", 1, b"", size=(50000, 50000), palette=BMP_PALETTE[:8])
    image(3, 2).save(folder / "picture.tiff")
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
