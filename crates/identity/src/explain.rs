//! Why a workload or an agent gets an identity, or none.
