"""One engine in virtual time."""
