//! Harness for black-box tests of the built binaries.
