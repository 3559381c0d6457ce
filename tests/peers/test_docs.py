"""The Python of docs/python.md runs as it stands, on a tiny model under the names that it uses."""

import ast
import json
import os
import pathlib
import re
import shutil
import stat

import pytest
import torch
from safetensors.torch import load_file
from support import GOLDENS, ROOT, cli

BLOCKS = re.findall(r"^```py\n(.*?)^```$", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def furnished(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder with `minilm`, two adapters and their merge, where `npx` runs the built command line."""
    adapters = GOLDENS / "adapters"
    shutil.copytree(adapters / "base", tmp_path / "minilm")
    shutil.copytree(adapters / "qv", tmp_path / "emotion")
    shutil.copytree(adapters / "all", tmp_path / "topic")
    names = [word for name in ("emotion", "topic") for word in ("--adapter", tmp_path / name)]
    cli("merge", "--method", "average", *names, "--out", tmp_path / "merged")
    (tmp_path / "bin").mkdir()
    npx = tmp_path / "bin" / "npx"
    npx.write_text(f'#!/bin/sh\nshift\nexec node "{ROOT / "dist" / "cli.js"}" "$@"\n')
    npx.chmod(npx.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{npx.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_merged_adapter_is_loaded_with_a_tasks_head(furnished: pathlib.Path) -> None:
    head = load_file(furnished / "merged" / "heads" / "emotion.safetensors")
    labels = head["classifier.weight"].shape[0]
    names: dict = {}
    exec(BLOCKS[0].replace("num_labels=4", f"num_labels={labels}"), names)
    for name, tensor in head.items():
        assert torch.equal(names["base"].state_dict()[name], tensor)
    merged = names["model"].state_dict()
    written = load_file(furnished / "merged" / "adapter_model.safetensors")
    for name, tensor in written.items():
        assert torch.equal(merged[name.replace(".weight", ".default.weight")], tensor)


def test_the_command_line_runs_from_python(furnished: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    exec(BLOCKS[1], {})
    first = json.loads((furnished / "ties" / "merge_report.json").read_text())["layers"][0]
    assert ast.literal_eval(capsys.readouterr().out) == first
