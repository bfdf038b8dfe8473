"""The kernel: domain types, wire messages, configuration, simulation, latency models, vLLM plugins."""
