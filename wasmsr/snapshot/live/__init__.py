"""Snapshots that arrive while the program still runs elsewhere.

- `rest`: everything but the pages of the memories, as bytes;
- `known`: the image of a program that was here before;
- `early`: a rest that came before, from which a store is prepared;
- `memories`: memories that are filled in rounds, with their digests;
- `image`: a mapped file that is written meanwhile;
- `carried`: pieces of carried files that arrive in the rounds;
- `incoming`: all of these together, at the end that receives.
"""
