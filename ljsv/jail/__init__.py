"""Jails: spec, facts, plan, steps, launch, pid 1."""
