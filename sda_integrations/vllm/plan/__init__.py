"""What a model with steering needs of GPUs, on paper: memory, blocks of keys and values, and bounds on speed.

Needs no vLLM. `command.show_plan` is what `sda vllm --plan` calls; `planning.make_plan` is the calculation.
"""
