"""Replicas behind a router, simulated: what steering costs them, and what a router that knows prefixes gives back.

`simulate.simulate` is the whole; `benchmarks/replicas.py` prints its table.
"""
