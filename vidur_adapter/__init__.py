"""Operator profiles of other projects as step-latency models, and Vidur itself as a cross-check."""
