"""Flags, configurations and stray words of a command line, made into settings."""
