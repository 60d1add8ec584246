"""One thing that was found out about this machine."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """A fact. name: of what; value: what it is; status: error if training and generating do not work with it, warning if they
    work slower or not in every case; remedy: what to do, empty if nothing is."""

    name: str
    value: str
    status: Status = "ok"
    remedy: str = ""
