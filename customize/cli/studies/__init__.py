"""Commands that make several runs, or a short one that is discarded, to find out how to train."""
