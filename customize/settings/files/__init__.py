"""Settings as files: TOML, shipped configurations, shared settings."""
