"""report.html: what a run learned, on one page."""

from pathlib import Path

from customize.evaluation import record
from customize.storage.atomic import write_text
from customize.storage.resources import optional_file
from customize.storage.run_folder import REPORT


def write(folder: Path) -> Path | None:
    """Writes `report.html` into the folder of a run, also while the run goes on; returns its path.

    What cannot be read is left out; if the page cannot be made, that is noted, and None is returned. Raises OSError for a full
    or broken disk only.
    """
    from customize.evaluation.report.report_page import page

    with optional_file(f"no {REPORT}", Exception):
        return write_text(folder / REPORT, page(folder, record.read(folder)))
    return None
