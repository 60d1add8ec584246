"""Bytes on disk, with no idea of models: atomic writes, locks, checkpoints, checked files of others."""
