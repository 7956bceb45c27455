"""Decoding: row groups over one model, one token at a time, in a worker thread of the engine's own."""
