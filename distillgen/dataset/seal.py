"""The seal of a manifest: its last field is the sha256 of every byte before it, so that no flipped bit goes unseen."""

import hashlib
import re

FIELD = "seal"
_TAIL = re.compile(rb',\n  "seal": "([0-9a-f]{64})"\n}\n\Z')
_END = b"\n}\n"


def sealed(content: bytes) -> bytes:
    """Return an indented JSON object of at least one field with its seal as one field more, the last."""
    if not content.endswith(_END):
        raise ValueError("not an indented JSON object")
    body = content.removesuffix(_END)
    return body + b',\n  "seal": "' + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def has_seal(content: bytes) -> bool:
    """Return whether a file ends with a seal; versions of an early distillgen have none."""
    return _TAIL.search(content[-100:]) is not None


def seal_holds(content: bytes) -> bool:
    """Return whether the bytes of a sealed file are the ones that were sealed. One without a seal has none to hold."""
    tail = _TAIL.search(content[-100:])
    if tail is None:
        return False
    return hashlib.sha256(content[: -len(tail[0])]).hexdigest().encode() == tail[1]
