"""Configurations of other trainers, read as settings."""
