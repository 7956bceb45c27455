"""Adapters that bring the steering engine into application frameworks. They translate; they never compute."""
