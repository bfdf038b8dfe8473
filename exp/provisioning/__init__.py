"""Strategies of provisioning compared on simulated clusters."""
