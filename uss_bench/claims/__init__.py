"""Published numbers as data: what papers claim, and whether a measurement bears a claim out.

::

    claims = load_claims()                                        # those that come with uss-bench
    claims_for(claims, method="smooseg", dataset="cityscapes27")  # scores of the method as published
    check_claims(configurations)                                  # what was measured, against them

The ledger is a folder of TOML files, ``leaderboards/claims``, whose README.md says how to read and to
extend it.
"""

from uss_bench.claims.ledger import (
    Claim,
    Ledger,
    built_in_folder,
    claims_for,
    load_claims,
    load_ledger,
)
from uss_bench.claims.reproduction import (
    ClaimCheck,
    ReproductionStatus,
    check_claims,
    claim_differences,
    reproduction,
)

__all__ = [
    "Claim",
    "ClaimCheck",
    "Ledger",
    "ReproductionStatus",
    "built_in_folder",
    "check_claims",
    "claim_differences",
    "claims_for",
    "load_claims",
    "load_ledger",
    "reproduction",
]
