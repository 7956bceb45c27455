"""RemoteEngine: the interface of SteeringEngine over a server's wire format."""

from sda_engine.remote.engine import RemoteEngine

__all__ = ["RemoteEngine"]
