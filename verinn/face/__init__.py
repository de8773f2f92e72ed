"""The command line's parts: clock, watch, reports, the commands. Nothing here decides anything."""
