"""What this machine is, what is missing for training and generating, and the remedies."""
