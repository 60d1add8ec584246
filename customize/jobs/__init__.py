"""Jobs as folders: a queue for the one device, the worker that runs them, and what a run says of its progress."""
