"""`sda serve`: one model behind OpenAI's HTTP interface, with steering in the field `sda`.

```python
from sda_integrations.server import ServerSettings, make_app

app = make_app(engine, ServerSettings(api_keys=("...",), alignment="honesty"))
```

The names are imported when they are first used: `sda --help` reads the command beside them, and needs neither FastAPI
nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sda_integrations.server.app import make_app
    from sda_integrations.server.evaluators import EvaluatorsByName
    from sda_integrations.server.serving import make_server
    from sda_integrations.server.settings import EvaluatorSettings, ServerLimits, ServerSettings

__all__ = ["EvaluatorSettings", "EvaluatorsByName", "ServerLimits", "ServerSettings", "make_app", "make_server"]

_HOMES = {
    "EvaluatorSettings": "settings",
    "EvaluatorsByName": "evaluators",
    "ServerLimits": "settings",
    "ServerSettings": "settings",
    "make_app": "app",
    "make_server": "serving",
}
_EXTRA = ("fastapi", "starlette", "uvicorn", "prometheus_client")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise ImportError(
            f"sda_integrations.server needs {error.name}, which is not installed. "
            f"Install it with: pip install 'sda-integrations[server]'",
            name=error.name,
        ) from error
