"""Makes `tests/pickle/data`: what `torch.save` writes of tensors of every kind, and of things that are refused.

`expected.safetensors` holds the tensors of `zip.bin`, `protocol4.bin` and `legacy.bin`, row by row; `state.safetensors`
those of `state.bin` and `state-legacy.bin`. `adapter_model.bin` is that of the golden `adapters/qv` as PEFT saved it
before it knew safetensors. Files under `refused/` are torch's own too.

    ~/.cache/iteris-web/peers/bin/python tests/pickle/pickles.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import pathlib

import torch
from safetensors.torch import load_file, save_file
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
ADAPTER = HERE.parent / "goldens/data/adapters/qv/adapter_model.safetensors"


def ramp(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Numbers that differ from element to element and are exact in every type."""
    count = int(torch.tensor(shape).prod()) if shape else 1
    return (torch.arange(count) * 0.25 - 1.5 if dtype.is_floating_point else torch.arange(count) - 3).to(dtype).reshape(shape)


def tensors() -> dict[str, torch.Tensor]:
    matrix, table = ramp(4, 6), ramp(6, 5, dtype=torch.bfloat16)
    types = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "bool"]
    every = {f"type.{name}": ramp(2, 3, dtype=getattr(torch, name)) for name in types}
    return {
        **every,
        "type.uint8": torch.arange(200, 206, dtype=torch.uint8).reshape(2, 3),
        "scalar": torch.tensor(0.375),
        "empty": torch.zeros(0, 4),
        "parameter": nn.Parameter(ramp(3, 2)),
        "whole": matrix,
        "tied": matrix,
        "alias": matrix.detach(),
        "rows": matrix[1:3],
        "columns": matrix[:, 2:5],
        "every other": matrix[::2, ::3],
        "transposed": matrix.t(),
        "transposed half": table.t(),
        "part of transposed": table.t()[1:4, 2:],
        "convolution": ramp(2, 3, 2, 2).permute(1, 0, 3, 2),
        "channels last": ramp(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        "one row of a transposed": matrix.t()[2:3],
        "naïve": ramp(1),
    }


def state() -> dict[str, torch.Tensor]:
    """An OrderedDict with the attribute `_metadata`."""
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(ramp(*value.shape))
    return model.state_dict()


def negated() -> torch.Tensor:
    """A tensor whose numbers in the file have the wrong sign: the view's attribute says so, and nothing else."""
    tensor = torch.view_as_complex(ramp(3, 2)).conj().imag
    assert tensor.is_neg()
    return tensor


def refused() -> dict[str, object]:
    return {
        "expanded": {"w": ramp(1, 3).expand(4, 3)},
        "negated": {"w": negated()},
        "complex": {"w": torch.zeros(2, dtype=torch.complex64)},
        "eight-bits": {"w": torch.zeros(2).to(torch.float8_e4m3fn)},
        "sparse": {"w": torch.eye(2).to_sparse()},
        "nested": {"state_dict": {"w": ramp(2)}, "epoch": 3},
        "list": [ramp(2)],
        "module": nn.Linear(2, 2),
        "number": {"w": ramp(2), "step": 3},
        "attribute": {"w": with_attribute()},
    }


def with_attribute() -> nn.Parameter:
    parameter = nn.Parameter(ramp(2))
    parameter.origin = "elsewhere"
    return parameter


def rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def make(out: pathlib.Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.save(tensors(), out / "zip.bin")
    torch.save(tensors(), out / "protocol4.bin", pickle_protocol=4)
    torch.save(tensors(), out / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save(state(), out / "state.bin")
    torch.save(state(), out / "state-legacy.bin", _use_new_zipfile_serialization=False)
    save_file({name: rows(tensor) for name, tensor in tensors().items()}, out / "expected.safetensors")
    save_file({name: rows(tensor) for name, tensor in state().items()}, out / "state.safetensors")

    torch.save(load_file(ADAPTER), out / "adapter_model.bin")

    (out / "refused").mkdir(exist_ok=True)
    for name, value in refused().items():
        torch.save(value, out / f"refused/{name}.bin")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "data")
    make(parser.parse_args().out)
