"""Plugins as they lie on disk, written by tests."""

from __future__ import annotations

from pathlib import Path

SPEC = """
kind = "method"
name = "new"
title = "New"
summary = "none"
entry = "new:New"
inputs = ["image"]
"""


def write_plugin(folder: Path, name: str = "new", *, more: str = "", code: str | None = "New = 1") -> Path:
    """Write a method's folder; with `code` None it has a spec.toml and nothing else."""
    folder.mkdir(parents=True)
    (folder / "spec.toml").write_text(SPEC.replace('name = "new"', f'name = "{name}"') + more)
    if code is not None:
        (folder / "new.py").write_text(code)
    return folder


def install(site: Path, name: str = "new", *, more: str = "") -> Path:
    """Lay a method into `site` as pip would have, and return its package's folder."""
    info = site / "their_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[uss_bench.methods]\nany = their_plugin\n")
    folder = write_plugin(site / "their_plugin", name, more=more)
    (folder / "__init__.py").touch()
    return folder
