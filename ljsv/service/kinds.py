"""The kinds of base that a rootfs can have. Imports nothing: `ljexec` goes through here."""

HOST = "host"
DIRECTORY = "directory"
IMAGE = "image"
