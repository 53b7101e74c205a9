"""The published pickle, read as data and never run."""
