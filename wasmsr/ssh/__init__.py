"""The transport to the devices of a fleet for their operator: SSH, with `asyncssh`."""
