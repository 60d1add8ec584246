"""Images and captions: folders, datasets, crops, and the batches made of them."""
