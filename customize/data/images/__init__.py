"""Opens, checks, converts (to sRGB) and compares image files."""
