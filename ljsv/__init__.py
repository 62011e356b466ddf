"""ljsv: a runit-style service supervisor for persistent rootless jails.

This module holds the version as a constant and imports nothing: reading it
from package metadata costs 50 ms, more than `ljsv status` may take.
"""

__version__ = "0.1.0"
