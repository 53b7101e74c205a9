"""Around every request: who may ask, how often, how much, and what is logged."""
