"""Teach a text-to-image diffusion model something of your own from a handful of pictures, and generate with it."""

__version__ = "0.1.0"
