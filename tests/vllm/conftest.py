"""Tests that need vLLM are no business of an environment that has none."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["*"]
