//! Harness of the black-box tests: drives the built binaries through their sockets.
