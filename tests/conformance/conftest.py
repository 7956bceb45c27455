"""Which scenarios run over a server on every day."""

from tests.sizes import ALL


def pytest_collection_modifyitems(config, items):
    """Over a server, the last case of one scenario in three: mostly one that streams, or is asynchronous, or both.

    `make endurance` runs all. Which route a scenario takes through the adapter is tried in this process already, and
    what goes over the wire in the contract of servers.
    """
    if ALL:
        return
    over_server = {item: item.originalname for item in items if is_over_server(item)}
    last = {name: item for item, name in over_server.items()}
    kept = {last[name] for name in sorted(last)[::3]}
    left_out = [item for item in over_server if item not in kept]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def is_over_server(item) -> bool:
    """Whether an item asks a scripted engine through a server."""
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("scripted") == "over a server"
