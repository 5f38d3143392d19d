"""Seeds for the parts of a run, all derived from the one the user gave."""

import hashlib
import os


def global_seed() -> int:
    """The seed of this run as Lightning's `seed_everything` left it for all processes; 0 if it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def derive_seed(*parts: int) -> int:
    """A seed, 0 <= seed < 2**63, for one part of a run, such as (seed, epoch, rank). Unequal parts share no stream."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
