//! The wire: generated protobuf code, conversions to and from identity, connecting to server and
//! agent sockets.

pub mod pb;
