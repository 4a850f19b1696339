"""What plugins of datasets import stays."""

from __future__ import annotations

import ast
from pathlib import Path

import uss_bench.data

NAMES = """
IMAGE_SUFFIXES LABEL_SUFFIXES PARTIAL Doubt FileImages FileLabels FileSet Generated Names Render SplitReport
ValueTable by_stem check_count check_flag check_partners check_split choose_split class_table fingerprint
first_place image_size known_split left_out list_files list_images orientation read_bytes read_image
read_label read_values same_name verify_splits
"""


def test_the_names_that_plugins_import_stay():
    assert set(NAMES.split()) <= set(uss_bench.data.__all__)
    for name in uss_bench.data.__all__:
        assert getattr(uss_bench.data, name) is not None


def test_the_datasets_that_come_along_import_no_more_of_data_than_that():
    for path in sorted((Path(__file__).parents[2] / "datasets").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uss_bench.data"):
                assert node.module == "uss_bench.data", path
                assert {alias.name for alias in node.names} <= set(uss_bench.data.__all__), path
