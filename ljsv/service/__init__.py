"""A service directory, read into frozen values."""
