"""Fleets on several machines: what runs where, the back ends that run it, and the verbs on top."""
