//! Who is asking? Peer pinning, /proc, workload attestors and node attestors.
