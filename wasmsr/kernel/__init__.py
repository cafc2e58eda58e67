"""A Jupyter kernel whose Python is a sandbox: the client's ports, and the process behind them."""
