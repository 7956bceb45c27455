"""SDA inside vLLM: `sda vllm MODEL` starts vLLM's server with what steers in it.

- `scheduler`: a scheduler of vLLM that runs one request as a group of sequences in lock step.
- `processor`: a logits processor of vLLM that draws one token for all sequences of a group.
- `middleware`: what answers requests with the field `sda` in vLLM's server, by `engine`, a SteeringEngine whose tokens
  are decoded by vLLM.

No name of vLLM is imported here: the command and the planner run where there is none.
"""
