"""The installed version."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("otel-aimon")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"
