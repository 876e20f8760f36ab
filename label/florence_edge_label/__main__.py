"""`python -m florence_edge_label` is florence-label."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
