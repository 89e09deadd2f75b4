"""SGLang takes one kernel for CPUs from vLLM, where it has none of its own."""

from absent_package import stand_in  # type: ignore[import-not-found]

__version__ = "0.0"
__getattr__ = stand_in(__name__)
