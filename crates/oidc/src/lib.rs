//! An OpenID Connect discovery provider for JWT-SVIDs.
//!
//! It serves the two documents by which others verify the JWT-SVIDs of a trust domain: the provider
//! configuration (OpenID Connect Discovery 1.0, section 4) and the keys. `signet-oidc` is a drop-in
//! for SPIRE's `oidc-discovery-provider`; `signet-server` serves the same from its memory.
//!
//! | module | what |
//! |---|---|
//! | [`keys`], [`provider`] | the documents, made once for each change, and how they are answered |
//! | [`source`] | where keys come from: a server's socket, the Workload API, a file |
//! | [`listener`] | TLS with certificate files, plain TCP, a Unix socket |
//! | [`check`] | whether a cloud would take the tokens, rule by rule |
//! | [`config`], [`health`], [`app`], [`run`], [`cli`] | the program |

pub mod app;
pub mod check;
pub mod cli;
pub mod config;
pub mod health;
pub mod keys;
pub mod listener;
pub mod provider;
pub mod run;
pub mod source;
