"""What an image file says about how it was made, written and read."""
