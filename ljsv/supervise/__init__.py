"""Scanner, supervisors and journal."""
