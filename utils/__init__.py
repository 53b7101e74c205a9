"""The scoring engine and what its fronts share."""
