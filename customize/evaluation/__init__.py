"""What a run learned, and whether its files are intact."""
