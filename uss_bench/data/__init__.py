"""From files on disk to images and labels; what plugins of datasets are made of is exported here."""

from uss_bench.data.file_datasets import (
    PARTIAL,
    Doubt,
    FileImages,
    FileLabels,
    ValueTable,
    check_count,
    check_flag,
    check_partners,
    choose_split,
    class_table,
    first_place,
    known_split,
)
from uss_bench.data.fingerprints import FileSet, fingerprint, read_bytes
from uss_bench.data.generated import Generated, Render
from uss_bench.data.images import image_size, orientation, read_image, read_label, read_values
from uss_bench.data.listing import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    Names,
    by_stem,
    left_out,
    list_files,
    list_images,
    same_name,
)
from uss_bench.data.paired import PairedDataset, taxonomy_classes
from uss_bench.data.split_check import SplitReport, check_split, verify_splits

__all__ = [
    "IMAGE_SUFFIXES",
    "LABEL_SUFFIXES",
    "PARTIAL",
    "Doubt",
    "FileImages",
    "FileLabels",
    "FileSet",
    "Generated",
    "Names",
    "PairedDataset",
    "Render",
    "SplitReport",
    "ValueTable",
    "by_stem",
    "check_count",
    "check_flag",
    "check_partners",
    "check_split",
    "choose_split",
    "class_table",
    "fingerprint",
    "first_place",
    "image_size",
    "known_split",
    "left_out",
    "list_files",
    "list_images",
    "orientation",
    "read_bytes",
    "read_image",
    "read_label",
    "read_values",
    "same_name",
    "taxonomy_classes",
    "verify_splits",
]
