//! Clock, tasks and shutdown, backoff, rate limits, bounded collections; no I/O, SPIFFE-free.
