"""How long property tests look: briefly by default, and with FLORENCE_EDGE_THOROUGH=1 long."""

import os

THOROUGH = bool(os.environ.get("FLORENCE_EDGE_THOROUGH"))
_SHARE = 5


def examples(count: int) -> int:
    """`count` examples of a property where it is looked at thoroughly, else a fifth of them."""
    return count if THOROUGH else max(count // _SHARE, 20)
