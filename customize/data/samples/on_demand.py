"""Encodings of so many images and captions that each is made when a step first asks for it, and not all are kept in memory."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Generic, TypeVar

from torch import Tensor

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

BYTES, BYTES_BESIDE_FILES = 1 << 30, 128 << 20
"""Memory for the encodings of images: where they are nowhere else, and where a latents cache has each of them."""
BYTES_OF_CAPTIONS, BYTES_OF_MASKS = 128 << 20, 64 << 20


class Kept(Generic[Key, Value]):
    """What `make` returns for a key, made when it is asked for, and kept as long as all that is kept has at most `most` bytes:
    what was not used for longest leaves first. size: the bytes of a value."""

    def __init__(self, make: Callable[[Key], Value], size: Callable[[Value], int], most: int):
        self.make, self.size, self.most = make, size, most
        self.values: OrderedDict[Key, Value] = OrderedDict()
        self.bytes = 0

    def __call__(self, key: Key) -> Value:
        if key in self.values:
            self.values.move_to_end(key)
            return self.values[key]
        value = self.values[key] = self.make(key)
        self.bytes += self.size(value)
        while self.bytes > self.most:
            _, oldest = self.values.popitem(last=False)
            self.bytes -= self.size(oldest)
        return value


class Variants(Mapping[int, Tensor]):
    """What is made of each variant of an image when it is asked for. make: of (image, variant), raises KeyError where there is
    nothing."""

    def __init__(self, make: Callable[[tuple[int, int]], Tensor], image: int, number: int):
        self.make, self.image, self.number = make, image, number

    def __getitem__(self, variant: int) -> Tensor:
        if variant not in range(self.number):
            raise KeyError(variant)
        return self.make((self.image, variant))

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.number))

    def __len__(self) -> int:
        return self.number


def nbytes(tensor: Tensor) -> int:
    """The bytes of a tensor."""
    return tensor.nbytes
