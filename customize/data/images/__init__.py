"""Image files: opened, checked, converted to sRGB and compared."""
