"""The kernel seam: the only package that imports ctypes. One thin wrapper a system call, by its manual page's name."""
