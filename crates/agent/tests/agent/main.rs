//! The agent as a whole, between a server that does what it is told and workloads that call.

mod cli;
mod fake_server;
mod fixture;
mod intruders;
mod life;
mod serving;
