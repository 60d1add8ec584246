"""Commands on files of learned weights that need no base model: what is in a file, and the same in another layout."""
