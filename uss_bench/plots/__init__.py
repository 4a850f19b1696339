"""Figures of records, in one style, from data that is computed apart from its drawing."""

from uss_bench.runtime.installation import import_matplotlib

import_matplotlib()
