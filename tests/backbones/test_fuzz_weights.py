"""Spoilt weights: refused by name, and no pickle loaded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fuzzing import FUZZ, ignore_warnings, spoilt, survives
from hypothesis import given

from uss_bench.backbones.checkpoint_files import read_state_dict
from uss_bench.errors import DataError

pytestmark = ignore_warnings


def weights(save: Callable[[dict[str, torch.Tensor], Any], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2)}, Path(folder) / "w")
        return (Path(folder) / "w").read_bytes()


@FUZZ
@given(spoilt([weights(safetensors.torch.save_file)]))
def test_safetensors(content: bytes) -> None:
    survives(read_state_dict, content, "w.safetensors")


@FUZZ
@given(
    spoilt(
        [weights(torch.save), weights(lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False))]
    )
)
def test_pth(content: bytes) -> None:
    survives(read_state_dict, content, "w.pth")


@pytest.mark.parametrize("content", [{"model": {3: torch.zeros(1)}}, {b"a": torch.zeros(1)}])
def test_tensors_under_what_is_no_name_are_no_state_dict(tmp_path, content) -> None:
    torch.save(content, tmp_path / "w.pth")
    # Older versions of torch, 2.3 among them, do not read names that are bytes in the first place.
    with pytest.raises(DataError, match=r"is not a tensor under a name|hold Python objects"):
        read_state_dict(tmp_path / "w.pth")


def test_a_dict_that_holds_itself_ends(tmp_path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(DataError, match="hold no state dict"):
        read_state_dict(tmp_path / "w.pth")
