"""infer.py: from its settings to image files."""
