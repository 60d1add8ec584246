"""Measures what is cut off images of twelve usual shapes, as squares and in buckets: `python benchmarks/bucket_cuts.py`.

Prints the table of docs/images.md. A share is that of the pixels of the resized image that lie outside a crop.
"""

from typing import Any

from customize.data.bucket_report import in_words
from customize.data.buckets import Buckets
from customize.methods import DreamBoothSettings

SHAPES = {
    "camera 4:3": (4032, 3024), "camera 3:4": (3024, 4032), "camera 3:2": (6000, 4000), "camera 2:3": (4000, 6000),
    "video 16:9": (3840, 2160), "video 9:16": (2160, 3840), "post 4:5": (1080, 1350), "post 1:1": (1080, 1080),
    "film 21:9": (2560, 1080), "screen of a phone": (1170, 2532), "banner 5:2": (5000, 2000), "scan 4:3": (1600, 1200),
}  # fmt: skip
SQUARES, FINER = {"aspect_ratio_buckets": None}, {"bucket_reso_steps": 32}
COLUMNS: tuple[tuple[int, dict[str, Any]], ...] = ((512, SQUARES), (512, {}), (512, FINER), (1024, {}))


def main() -> None:
    """Prints a row for each shape, and the mean and the largest share."""
    every = [
        Buckets.of(DreamBoothSettings(**{"instance_prompt": "a photo of sks dog", "instance_data_dir": "x", **given}), resolution)
        for resolution, given in COLUMNS
    ]
    cuts: list[list[float]] = []
    for name, size in SHAPES.items():
        fits = [buckets.fit(size) for buckets in every]
        cuts.append([fit.cut for fit in fits])
        cells = [f"{100 * fit.cut:.1f} % ({in_words(fit.bucket)})" for fit in fits]
        print(f"| {name} | {in_words(size)} | {' | '.join(cells)} |")
    for name, of in (("mean", lambda column: sum(column) / len(column)), ("most", max)):
        print(f"| {name} | | {' | '.join(f'{100 * of(column):.1f} %' for column in zip(*cuts, strict=True))} |")


if __name__ == "__main__":
    main()
