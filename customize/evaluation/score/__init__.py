"""What weights have learned, measured after the fact: the steps of a run, or any file of weights with photos."""
