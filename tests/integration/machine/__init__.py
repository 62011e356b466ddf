"""What a box needs beyond jails: privileged services, devices, terminals, the kernel's log."""
