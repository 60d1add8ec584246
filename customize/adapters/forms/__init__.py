"""Changes of a weight that adapters other than LoRA make, as functions of their tensors: for training, loading and merging."""
