"""Snapshots: a paused program as a value, and that value as bytes.

`snapshot.Snapshot` is what users of the library hold. Around it, in the order of the data flow:

- `state`: the value; `capture` and `restore`: from a store to the value and back;
- `check`: what holds of every value; `rules`, `field_types`: what it compares with;
- `sections`: the parts of the value as payloads, one file each;
- `memory`: memories as pages;
- `encoding`: payloads as protected bytes; `format`: files around these bytes;
- `inspect`: a snapshot for people.
"""
