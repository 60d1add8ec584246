"""Rules that join settings: the mechanism and what every command has (`rule`), training, inference."""
