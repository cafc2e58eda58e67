"""Sandboxes: an interpreter for somebody's code, whose state can be saved, forked and rewound."""
