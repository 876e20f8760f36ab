"""florence-label: a data set labelled by a bundle, on one machine or many, with nothing lost.

    source ──> list of pictures ──> shards ──> workers ──> parts (Parquet) ──> exports, a page

The shard is the unit of work, of retries and of resuming; engines only spread shards.
"""
