"""What a check of the doctor found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class DoctorFinding:
    """What a check found: ``note`` for what works with a restriction, ``problem`` for what does not."""

    name: str
    state: State
    found: str
    advice: str = ""
