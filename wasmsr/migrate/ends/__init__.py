"""One end: both halves of the hand-over, and the loop around them."""
