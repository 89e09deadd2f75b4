"""No text model needs it, but SGLang imports it."""

from absent_package import stand_in  # type: ignore[import-not-found]

__version__ = "0.0"
__getattr__ = stand_in(__name__)
