"""SDA inside vLLM: `sda vllm` starts it. Importing this package imports no vLLM."""
