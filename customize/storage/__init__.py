"""Files, independent of models: atomic writes, locks, checkpoints, and safe reading of untrusted files."""
