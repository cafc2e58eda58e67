"""A model of ownership, and an explorer of all its states.

    python -m tests.ownership.model --help

`state.py` has the values, `node.py` what one node can do (from the product's own table),
`explore.py` the search and the properties, `broken.py` variants without a rule, each of which
`caught.py` must catch.
"""
