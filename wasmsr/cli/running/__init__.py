"""Carries out `wasmsr run`: from options to a program, with signals, keys, timers and files."""
