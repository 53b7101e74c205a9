"""The network in plain torch, its packed batches, and the checkpoint folder."""
