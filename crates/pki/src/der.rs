//! A small DER writer and reader: what issuing needs on its hot path, and nothing more.
