"""Several runs, or a short one that is discarded, from which is seen how to train."""
