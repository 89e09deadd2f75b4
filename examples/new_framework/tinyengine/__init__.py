"""TinyEngine: an invented inference library, which stands for the one that you want to see. It knows nothing of us."""

from tinyengine.model import Model, PromptTooLongError, Tuner

__version__ = "1.2.0"

__all__ = ["Model", "PromptTooLongError", "Tuner"]
