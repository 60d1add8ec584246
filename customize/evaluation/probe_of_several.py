"""The pictures of a run that teaches several concepts: drawn together, and measured for each concept against its own photos."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from customize.evaluation.picture_probe import PictureProbe
from customize.evaluation.record import MEASURES


@dataclass
class ProbeOfSeveral(PictureProbe):
    """The probe of all concepts. parts: of each one, with its photos, masks and prompts; they draw nothing themselves."""

    parts: Sequence[PictureProbe] = field(default_factory=list)

    def see(self) -> None:
        for part, own in zip(self.parts, self.apart(self.own), strict=True):
            part.own = own
            part.see()

    def values(self, drawn: Sequence[Image.Image]) -> dict[str, tuple[float, ...]]:
        """The numbers of all concepts, one after another, by measure: of those that could be measured of each concept that has
        pictures for it."""
        found = [(part, part.values(own)) for part, own in zip(self.parts, self.apart(drawn), strict=True)]
        values = {}
        for name in MEASURES:
            own = [numbers.get(name) for part, numbers in found if part.evaluation.pairs_of(name)]
            if own and all(own):
                values[name] = tuple(number for numbers in own if numbers for number in numbers)
        return values

    def apart(self, pictures: Sequence[Image.Image]) -> list[list[Image.Image]]:
        """The pictures of each concept."""
        return [[pictures[place] for place in places] for places in self.evaluation.places()]
