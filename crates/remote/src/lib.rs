//! Back ends of others: a bounded HTTP client with proxies and deadlines.

pub mod http;
