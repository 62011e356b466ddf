"""Service directories made from what other supervisors are told: runit directories, systemd units, compose files."""
