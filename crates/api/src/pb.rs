//! Generated from `proto/`: modules are named as the protobuf packages.
//!
//! These types stay at the edge: [`crate::convert`] and the endpoint modules of server and agent
//! are the only ones to use them. Byte fields are [`bytes::Bytes`]: cheap to clone, but each keeps
//! the message it was read from alive, so copy what is kept for long.
#![allow(
    missing_docs,
    rustdoc::invalid_html_tags,
    rustdoc::bare_urls,
    rustdoc::broken_intra_doc_links,
    clippy::all,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated code; the comments are in the proto files"
)]

/// The descriptors of everything here, for gRPC reflection: an encoded `FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The SPIFFE Workload API, which has no package on the wire.
pub mod workload {
    tonic::include_proto!("_");
}

/// The SPIFFE Broker API.
pub mod broker {
    tonic::include_proto!("spiffe.broker");
}

/// The Container Storage Interface, as far as the agent's driver serves it.
pub mod csi {
    pub mod v1 {
        tonic::include_proto!("csi.v1");
    }
}

/// Envoy's xDS, as far as SDS needs it.
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod extensions {
        pub mod transport_sockets {
            pub mod tls {
                pub mod v3 {
                    tonic::include_proto!("envoy.extensions.transport_sockets.tls.v3");
                }
            }
        }
    }
    pub mod r#type {
        pub mod v3 {
            tonic::include_proto!("envoy.r#type.v3");
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
        pub mod secret {
            pub mod v3 {
                tonic::include_proto!("envoy.service.secret.v3");
            }
        }
    }
}

pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

pub mod grpc {
    pub mod health {
        pub mod v1 {
            tonic::include_proto!("grpc.health.v1");
        }
    }
}

/// What the Secrets Store CSI driver asks of its providers; the package is `v1alpha1` on the wire.
pub mod secretsstore {
    pub mod v1alpha1 {
        tonic::include_proto!("v1alpha1");
    }
}

pub mod signet {
    pub mod api {
        pub mod agent {
            pub mod explain {
                pub mod v1 {
                    tonic::include_proto!("signet.api.agent.explain.v1");
                }
            }
            pub mod secretstreams {
                pub mod v1 {
                    tonic::include_proto!("signet.api.agent.secretstreams.v1");
                }
            }
            pub mod trace {
                pub mod v1 {
                    tonic::include_proto!("signet.api.agent.trace.v1");
                }
            }
        }
        pub mod push {
            pub mod v1 {
                tonic::include_proto!("signet.api.push.v1");
            }
        }
        pub mod server {
            pub mod console {
                pub mod v1 {
                    tonic::include_proto!("signet.api.server.console.v1");
                }
            }
            pub mod localauthority {
                pub mod v1 {
                    tonic::include_proto!("signet.api.server.localauthority.v1");
                }
            }
            pub mod explain {
                pub mod v1 {
                    tonic::include_proto!("signet.api.server.explain.v1");
                }
            }
            pub mod federation {
                pub mod v1 {
                    tonic::include_proto!("signet.api.server.federation.v1");
                }
            }
            pub mod tenancy {
                pub mod v1 {
                    tonic::include_proto!("signet.api.server.tenancy.v1");
                }
            }
        }
    }
}

pub mod spire {
    /// The agent's debug API: this package alone lacks `api`.
    pub mod agent {
        pub mod debug {
            pub mod v1 {
                tonic::include_proto!("spire.agent.debug.v1");
            }
        }
    }

    pub mod api {
        pub mod agent {
            pub mod delegatedidentity {
                pub mod v1 {
                    tonic::include_proto!("spire.api.agent.delegatedidentity.v1");
                }
            }
            pub mod logger {
                pub mod v1 {
                    tonic::include_proto!("spire.api.agent.logger.v1");
                }
            }
        }

        pub mod server {
            pub mod agent {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.agent.v1");
                }
            }
            pub mod bundle {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.bundle.v1");
                }
            }
            pub mod debug {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.debug.v1");
                }
            }
            pub mod entry {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.entry.v1");
                }
            }
            pub mod localauthority {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.localauthority.v1");
                }
            }
            pub mod logger {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.logger.v1");
                }
            }
            pub mod svid {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.svid.v1");
                }
            }
            pub mod trustdomain {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.trustdomain.v1");
                }
            }
        }

        pub mod types {
            tonic::include_proto!("spire.api.types");
        }
    }
}
