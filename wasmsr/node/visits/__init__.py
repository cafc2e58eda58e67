"""Programs of a node that run in a browser for a while.

A browser owns nothing: it borrows. The node keeps the state that the program left in, and each
state that the browser sends; it has no worker for the program meanwhile. The browser may run it
until its lease ends, and the node goes on only after that. Read `visit` first, then `lent_stay` and
`lent_states`.
"""
