"""uss-bench: a benchmark and evaluation harness for unsupervised semantic segmentation.

Nothing is imported here: ``uss-bench --help`` must answer without torch. Import what you need from
the modules, e.g. `uss_bench.contracts` to write a plugin.
"""

__version__ = "0.1.0"
