"""What the page costs: the start of its server, the memory of its process, the size of each page, and the time to list 200 runs.

python benchmarks/web_page.py
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener

from customize import events
from customize.jobs import runs
from customize.jobs.progress import ProgressFile
from customize.storage import run_folder
from customize.storage.atomic import write_text
from customize.web.server import PAGES

RUNS = 200
SETTINGS = '[model]\npretrained_model_name_or_path = "demo"\n\n[method]\ninstance_prompt = "a sks dog"\nadapter = "lora"\n'


def make_runs(workspace: Path) -> None:
    """Runs as they lie on a disk: settings, progress, a log of 500 steps."""
    lines = "".join(f'{{"step": {step}, "loss": 0.5, "gradient_norm": 1.0, "seconds": 0.3}}\n' for step in range(1, 501))
    for number in range(RUNS):
        folder = workspace / "runs" / f"dog-{number:04d}"
        with run_folder.claimed(folder):
            write_text(folder / run_folder.CONFIG, SETTINGS)
            (folder / run_folder.LOG).write_text(lines)
            report = ProgressFile()
            report(events.RunBegun(folder, "CPU"))
            if number % 2:
                report(events.RunEnded())


def sizes(url: str) -> dict[str, int]:
    """The bytes of each page. url: the address with the key."""
    address, opener = url.partition("?")[0], build_opener(HTTPCookieProcessor())
    opener.open(url).read()
    return {title: len(opener.open(f"{address}{'' if name == 'teach' else name}").read()) for name, title in PAGES.items()}


def started(workspace: Path) -> tuple[float, int, dict[str, int]]:
    """The seconds until the server of the page can be asked, the KiB of its process, and the bytes of each page."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "customize", "web", str(workspace), "--port", "0", "--no_browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        url = server.stdout.readline().strip()
        seconds = time.perf_counter() - begin
        pages = sizes(url)
        status = Path(f"/proc/{server.pid}/status").read_text()
        server.kill()
    return seconds, int(status.partition("VmRSS:")[2].split()[0]), pages


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        make_runs(workspace)
        for which in ("first", "second"):
            begin = time.perf_counter()
            found = runs.listed(workspace)
            print(f"{len(found)} runs listed in {time.perf_counter() - begin:.2f} s ({which} time)")
        seconds, memory, pages = started(workspace)
        print(f"the server listens after {seconds:.1f} s, with {memory / 1024:.0f} MiB of memory")
        print(*(f"{title}: {size / 1024:.0f} KiB" for title, size in pages.items()), sep=", ")


if __name__ == "__main__":
    main()
