"""`customize mask` and `customize caption`: files beside the images of a folder, which the user looks at and corrects."""
