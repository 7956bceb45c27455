"""The SDA steering engine: aligned answers from a local model, without fine-tuning.

```python
from sda_engine import SteeringEngine

engine = SteeringEngine.load("smollm2-135m")
done = engine.generate([{"role": "user", "content": "Is the earth flat?"}], alignment="honesty")
print(done.text, done.amplification, done.trace.mean_divergence)
```

The names are imported when they are first used: torch and transformers take seconds, and `sda --help` needs neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sda_engine.alignment import PRESETS, Alignment, AlignmentWarning
    from sda_engine.choosing import KeepCheck, Revision
    from sda_engine.config import NoEffectWarning, Sampling, Steering
    from sda_engine.decoding.stats import EngineStats
    from sda_engine.engine import SteeringEngine
    from sda_engine.engine_settings import EngineSettings
    from sda_engine.output.constraints import Constraint
    from sda_engine.output.form import Output
    from sda_engine.output.tools import Tool
    from sda_engine.remote import RemoteEngine
    from sda_engine.results.completion import Completion, Piece, Usage
    from sda_engine.results.trace import Trace
    from sda_engine.wire import ServerEvaluator

__all__ = [
    "PRESETS",
    "Alignment",
    "AlignmentWarning",
    "Completion",
    "Constraint",
    "EngineSettings",
    "EngineStats",
    "KeepCheck",
    "NoEffectWarning",
    "Output",
    "Piece",
    "RemoteEngine",
    "Revision",
    "Sampling",
    "ServerEvaluator",
    "Steering",
    "SteeringEngine",
    "Tool",
    "Trace",
    "Usage",
]

_HOMES = {
    "PRESETS": "alignment",
    "Alignment": "alignment",
    "AlignmentWarning": "alignment",
    "Completion": "results",
    "Constraint": "output",
    "EngineSettings": "engine_settings",
    "EngineStats": "decoding",
    "KeepCheck": "choosing",
    "NoEffectWarning": "config",
    "Output": "output",
    "Piece": "results",
    "RemoteEngine": "remote",
    "Revision": "choosing",
    "Sampling": "config",
    "ServerEvaluator": "wire",
    "Steering": "config",
    "SteeringEngine": "engine",
    "Tool": "output",
    "Trace": "results",
    "Usage": "results",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
