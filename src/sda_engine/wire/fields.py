"""Where in a request something is read from, so that errors name the field of the request."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from sda_engine.errors import SDAError


@contextmanager
def within(path: str, names: Mapping[str, str] = MappingProxyType({}), *, whole: bool = False) -> Iterator[None]:
    """Around the making of settings: errors name the field of the request in place of the setting.

    Args:
        path: where the settings stand in the request; "" for its top.
        names: what settings are called there, where they have another name or stand elsewhere.
        whole: whether the path says it all, and the setting's own name is of no use.
    """
    try:
        yield
    except SDAError as error:
        inner = error.field
        if inner is None or not inner.startswith("sda."):  # else it was told further in
            name = None if whole or inner is None else names.get(inner, inner)
            error.field = ".".join(step for step in (path, name) if step) or None
        raise
