"""Routing policies, one small pure file each."""
