"""From a folder of photos and a word to the settings of a run: `Request`, `look`, `bases.found`, `plan`. No torch."""

from customize.teach import bases
from customize.teach.asked import Request
from customize.teach.photo_check import Photo, Photos, look
from customize.teach.planning import Plan, plan

__all__ = ["Photo", "Photos", "Plan", "Request", "bases", "look", "plan"]
