"""Experiments: workloads, load client, reports."""
