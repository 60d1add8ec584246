"""The input images and masks of the page, in images/inputs/ under names made of their content, so that none is there twice."""

import hashlib
import io
from pathlib import Path

from customize.data.images.image_file import open_image
from customize.storage.atomic import write_bytes
from customize.storage.disk import make_folder
from customize.web.pictures.image_gallery import INPUTS
from customize.web.workspace import Workspace


def name_of(png: bytes) -> str:
    """The path, relative to the workspace, at which these bytes are kept."""
    return f"images/{INPUTS}/{hashlib.sha256(png).hexdigest()[:16]}.png"


def keep(workspace: Workspace, png: bytes) -> str:
    """Writes the bytes, unless they are there already, and returns their path relative to the workspace."""
    path = workspace.folder / (name := name_of(png))
    make_folder(path.parent)
    if not path.is_file():
        write_bytes(path, png)
    return name


def keep_image(workspace: Workspace, path: str | Path) -> str:
    """The path of an image, relative to the workspace: its own if it lies in images/, else that of a copy, an upright PNG without
    metadata. Raises InputError."""
    place = Path(path).absolute()
    if place.is_relative_to(workspace.images):
        return place.relative_to(workspace.folder).as_posix()
    file = io.BytesIO()
    open_image(place).save(file, "PNG")
    return keep(workspace, file.getvalue())
