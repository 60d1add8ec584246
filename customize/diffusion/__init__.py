"""The mathematics of diffusion. Imports nothing else of the package."""
