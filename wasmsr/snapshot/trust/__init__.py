"""Trust: signatures over snapshots, encryption of snapshots, and where the keys come from."""
