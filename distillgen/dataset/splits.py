"""Which split a row belongs to: decided by a hash, so that a row never changes split between versions."""

import hashlib
from collections.abc import Mapping


def split_of(key: str, splits: Mapping[str, float]) -> str:
    """Return the split of everything that shares `key` (a seed's id, or the value of `split_by`).

    The first 64 bits of sha256(key), as a share of all, fall into one of the shares laid end to end.
    """
    if len(splits) == 1:
        return next(iter(splits))
    point = int.from_bytes(hashlib.sha256(b"split\0" + key.encode()).digest()[:8], "big") / 2**64
    edge = 0.0
    for name, share in splits.items():
        edge += share
        if point < edge:
            return name
    return name
