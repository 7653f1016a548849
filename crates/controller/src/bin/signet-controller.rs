//! The controller's program.
fn main() {}
