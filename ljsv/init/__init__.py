"""PID 1 of a box."""
