"""Response-length estimators."""
