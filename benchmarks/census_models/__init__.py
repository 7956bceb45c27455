"""Tiny random models of every type of transformers that writes text, and what a census asks of each."""

from .configs import tiny_config
from .models import tiny_model

__all__ = ["tiny_config", "tiny_model"]
