"""One image of several prompts: views, hybrids, and how they are shown."""
