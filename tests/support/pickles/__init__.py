"""Checkpoint files in the published format, and what reads them."""
