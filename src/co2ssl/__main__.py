"""``python -m co2ssl`` is ``co2ssl``."""

import sys

from co2ssl.cli import main

if __name__ == "__main__":
    sys.exit(main())
