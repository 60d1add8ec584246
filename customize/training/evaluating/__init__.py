"""What a run measures of itself, and what follows from it: candidates, the best of them, an early end."""
