"""Seeds derived from seeds: everything random in an experiment comes from its file through this one function."""

import hashlib


def derived_seed(seed: int, purpose: str, number: int) -> int:
    """A seed below 2**31 that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
