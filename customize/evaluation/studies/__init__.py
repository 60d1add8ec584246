"""What follows from several runs, or from a short one that is discarded."""
