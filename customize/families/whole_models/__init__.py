"""Complete models, written as a folder or as one file."""
