"""The SDA steering engine: aligned answers from a local model, without fine-tuning.

from sda_engine import SteeringEngine

engine = SteeringEngine.load("smollm2-135m")
done = engine.generate([{"role": "user", "content": "Is the earth flat?"}], alignment="honesty")
print(done.text, done.amplification, done.trace.mean_divergence)
"""

from sda_engine.alignment import PRESETS, Alignment, AlignmentWarning
from sda_engine.completion import Completion, Piece, Usage
from sda_engine.config import Sampling, Steering
from sda_engine.engine import SteeringEngine
from sda_engine.trace import Trace

__all__ = [
    "PRESETS",
    "Alignment",
    "AlignmentWarning",
    "Completion",
    "Piece",
    "Sampling",
    "Steering",
    "SteeringEngine",
    "Trace",
    "Usage",
]
