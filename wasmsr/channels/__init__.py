"""Channels: how a program of a fleet sends and gets messages, by functions of the module `env`."""
