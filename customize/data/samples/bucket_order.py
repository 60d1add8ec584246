"""Which bucket a step is of: the batches of an epoch, shuffled.

A step's global batch of G samples is of one bucket. A bucket deals its images in an endless sequence of shuffled passes, cut into
batches of G; a batch that reaches the end of a pass is filled up from the next one, of which so many fewer are left. Before epoch
e the bucket of n images has dealt ceil(e * n / G) batches. So every image was used at least e times, and a bucket is less than a
batch ahead of that: in the long run each image is used equally often, however few its bucket has. An epoch has the batches that
are due in it, in random order: in the first one at least one of each bucket, in later ones none of a bucket that is ahead.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

from customize.diffusion import rng


def batches_before(epoch: int, sizes: Sequence[int], global_batch: int) -> list[int]:
    """The number of batches that each bucket has dealt before an epoch. sizes: images of each bucket."""
    return [-(-epoch * size // global_batch) for size in sizes]


@lru_cache(maxsize=4)
def order_of(epoch: int, sizes: tuple[int, ...], global_batch: int, seed: int, stream: str) -> tuple[tuple[int, int], ...]:
    """(bucket, number of its batch) of each step of an epoch. The batches of a bucket keep their order: they are alike."""
    following, end = (batches_before(each, sizes, global_batch) for each in (epoch, epoch + 1))
    buckets = [bucket for bucket, last in enumerate(end) for _ in range(following[bucket], last)]
    found = []
    for place in rng.permutation(len(buckets), seed, f"{stream}/buckets", epoch):
        bucket = buckets[place]
        found.append((bucket, following[bucket]))
        following[bucket] += 1
    return tuple(found)


@lru_cache(maxsize=64)
def batch_of(step: int, sizes: tuple[int, ...], global_batch: int, seed: int, stream: str) -> tuple[int, int]:
    """(bucket, number of its batch) of a step, counted from 0. Takes the time of a binary search, once its epoch is ordered."""

    def steps_before(epoch: int) -> int:
        return sum(batches_before(epoch, sizes, global_batch))

    epoch = bisect_right(range(step * global_batch // sum(sizes) + 1), step, key=steps_before) - 1
    return order_of(epoch, sizes, global_batch, seed, stream)[step - steps_before(epoch)]
