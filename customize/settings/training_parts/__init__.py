"""Parts of the settings of training."""
