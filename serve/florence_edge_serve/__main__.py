"""`python -m florence_edge_serve` is `florence-serve`."""

import sys

from .cli import main

sys.exit(main())
