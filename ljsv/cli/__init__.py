"""The two commands, `ljsv` and `ljexec`; one file a verb."""
