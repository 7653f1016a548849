//! Keys, CSRs, X.509 and JWT issue and verify, JWKS, TLS, sealing; the only crate that calls a crypto library.
