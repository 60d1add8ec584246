"""What the user asked for: pure values with ranges, from which help, reports, documentation and JSON schema are generated."""
