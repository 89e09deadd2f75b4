"""``python -m otel_aimon`` is the command ``otel-aimon``."""

import sys

from otel_aimon.cli import main

if __name__ == "__main__":
    sys.exit(main())
