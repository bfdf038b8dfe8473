"""Experiments: a spec's matrix of cells, back ends that run a cell, folders that keep what came of it."""
