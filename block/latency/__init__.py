"""Step-latency models: batch shape to seconds."""
