"""SGLang's kernels are for GPUs; what it calls on a CPU is in torch."""

from absent_package import stand_in  # type: ignore[import-not-found]

__version__ = "0.0"
__getattr__ = stand_in(__name__)
