"""Turns flags, configurations and stray words of a command line into settings."""
