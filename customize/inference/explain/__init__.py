"""Looking inside: traces, attention maps, lessons."""
