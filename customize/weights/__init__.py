"""Learned weights as files, saved and loaded."""
