"""What runs inside a sandbox: programs in the language of the guest, which the host never imports.

They follow one protocol, which `streams.py` describes from the host's side.
"""
