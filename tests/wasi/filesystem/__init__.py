"""Tests of WASI: mounts, paths, trees and open files."""
