//! Who signs, and when: the CA state machine, journal, rotation; sees neither gRPC nor SQL.
