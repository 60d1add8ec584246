"""Images and captions: folders, datasets, crops and batches."""
