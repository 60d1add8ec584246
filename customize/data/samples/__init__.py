"""The samples of a step: batches, and what is encoded for them once."""
