//! Compiles `proto/` into Rust and a descriptor set, without `protoc`.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use protox::prost::Message as _;

/// Messages with keys or tokens in them: `src/redacted.rs` writes their `Debug` by hand.
const SECRETS: [&str; 19] = [
    ".JWTSVID",
    ".ValidateJWTSVIDRequest",
    ".WITSVID",
    ".X509SVID",
    ".signet.api.server.console.v1.LoginResponse",
    ".csi.v1.NodePublishVolumeRequest",
    ".envoy.config.core.v3.DataSource",
    ".envoy.service.discovery.v3.DiscoveryResponse",
    ".envoy.service.discovery.v3.Resource",
    ".spiffe.broker.JWTSVID",
    ".spiffe.broker.X509SVID",
    ".spire.api.agent.delegatedidentity.v1.X509SVIDWithKey",
    ".spire.api.server.agent.v1.CreateJoinTokenRequest",
    ".spire.api.types.AttestationData",
    ".spire.api.types.JWTSVID",
    ".spire.api.types.JoinToken",
    ".spire.api.types.WITSVID",
    ".v1alpha1.File",
    ".v1alpha1.MountRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();

    let descriptors = protox::compile(&files, [&root])?;
    let mut for_reflection = descriptors.clone();
    for file in &mut for_reflection.file {
        file.source_code_info = None;
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), for_reflection.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    // Byte fields share the buffer they were read from, and are shared by the messages they go to.
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .skip_debug(SECRETS)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|ext| ext == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
