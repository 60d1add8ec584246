"""Generation: a base model + learned weights -> images.

load_pipeline("demo", [("outputs/run", 1.0)]).generate("a photo of <my-toy>", seeds=[1, 2, 3])
"""

from typing import Any

__all__ = ["Pipeline", "load_pipeline"]


def __getattr__(name: str) -> Any:  # lazily, so that reading weight files does not import torch
    if name in __all__:
        from customize.library_logs import quiet

        quiet()
        from customize.inference import pipeline_loading

        return getattr(pipeline_loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
