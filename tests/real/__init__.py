"""Programs that nobody here wrote, run unmodified: `fetch` gets them, `legs` moves them."""
