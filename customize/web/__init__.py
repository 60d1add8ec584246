"""The page: a browser's view of jobs and runs, which owns nothing."""
