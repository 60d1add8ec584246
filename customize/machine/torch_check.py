"""What torch can do on this machine, told by a process of its own: `python -m customize.machine.torch_check` prints JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from customize import device

SECONDS = 120
"""That importing torch and one product of matrices may take."""
SIDE = 256


def ask() -> dict[str, Any]:
    """The answer of `main` in another process: name, missing, remedy, computes; or error, why there is none."""
    places = [str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in places if os.path.isabs(place))}
    command = [sys.executable, "-P", "-m", "customize.machine.torch_check"]  # -P: no module of the current folder is run
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        return {"error": f"importing it took more than {SECONDS} s"}
    except OSError as error:
        return {"error": str(error)}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        return {"error": lines[-1]}
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        return answer if isinstance(answer, dict) else {"error": "it answered something else"}
    except (ValueError, IndexError):
        return {"error": "it answered nothing"}


def main() -> None:
    """Write what torch uses and whether it computes there, as one line of JSON."""
    import torch

    chosen = device.best_device()
    machine = device.describe(chosen)
    found: dict[str, Any] = {"name": machine.name, "missing": machine.missing, "remedy": machine.remedy}
    try:
        ones = torch.ones(SIDE, SIDE, device=chosen)
        found["computes"] = float((ones @ ones).sum()) == SIDE**3
    except RuntimeError as error:
        found |= {"computes": False, "reason": str(error).splitlines()[0]}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
