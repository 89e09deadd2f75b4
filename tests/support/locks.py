"""Elections among the processes of the tests, in which others on this machine have no vote."""

from __future__ import annotations

import atexit
import shutil
import tempfile

DIRECTORY = tempfile.mkdtemp(prefix="otel-aimon-tests-")

atexit.register(shutil.rmtree, DIRECTORY, ignore_errors=True)
