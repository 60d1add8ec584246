"""The files of base models: recognised, checked and read."""
