//! What is asked wrongly is refused before anything is touched.

use signet_api::pb::csi::v1::{
    self as csi,
    volume_capability::{AccessMode, BlockVolume, MountVolume},
};

use super::*;
use crate::csi::settings::GivenSettings;

fn driver(dir: &std::path::Path) -> Driver {
    let given = GivenSettings {
        node_id: Some("node-1".to_owned()),
        workload_api_socket_dir: Some(dir.join("sockets")),
        kubelet_dir: Some(dir.join("kubelet")),
        ..GivenSettings::default()
    };
    Driver::new(&given.check().unwrap())
}

fn request(dir: &std::path::Path) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: "csi-1".to_owned(),
        target_path: dir.join("kubelet/pods/u/mount").display().to_string(),
        volume_capability: Some(csi::VolumeCapability {
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        }),
        readonly: true,
        volume_context: [(EPHEMERAL.to_owned(), "true".to_owned())].into(),
        ..NodePublishVolumeRequest::default()
    }
}

fn capability(request: &mut NodePublishVolumeRequest) -> &mut csi::VolumeCapability {
    request.volume_capability.as_mut().unwrap()
}

fn mount(request: &mut NodePublishVolumeRequest) -> &mut MountVolume {
    match &mut capability(request).access_type {
        Some(AccessType::Mount(mount)) => mount,
        _ => panic!(),
    }
}

#[tokio::test]
async fn each_wrong_request_is_refused_and_says_what_is_expected() {
    type Change = fn(&mut NodePublishVolumeRequest);
    let cases: &[(Change, &str)] = &[
        (|r| r.volume_id.clear(), "volume_id is missing"),
        (|r| r.volume_id = "x".repeat(257), "volume_id is longer than 256 bytes"),
        (|r| r.target_path.clear(), "target_path is missing"),
        (|r| r.target_path = "x".to_owned(), "is not an absolute path"),
        (|r| r.target_path = "/etc".to_owned(), "does not lie below the kubelet's directory"),
        (|r| r.target_path.push_str("/../x"), "has . or .. in it"),
        (|r| r.volume_capability = None, "volume_capability is missing"),
        (|r| capability(r).access_type = None, "the access type is missing, expected mount"),
        (
            |r| capability(r).access_type = Some(AccessType::Block(BlockVolume {})),
            "found block access, expected mount",
        ),
        (|r| mount(r).fs_type = "ext4".to_owned(), "fs_type and volume_mount_group must be empty"),
        (|r| mount(r).volume_mount_group = "7".to_owned(), "volume_mount_group must be empty"),
        (|r| mount(r).mount_flags.push("rw".to_owned()), "mount_flags must be empty"),
        (|r| capability(r).access_mode = None, "the access mode is missing"),
        (
            |r| {
                capability(r).access_mode =
                    Some(AccessMode { mode: Mode::SingleNodeReaderOnly.into() })
            },
            "expected SINGLE_NODE_WRITER",
        ),
        (
            |r| capability(r).access_mode = Some(AccessMode { mode: 99 }),
            "expected SINGLE_NODE_WRITER",
        ),
        (|r| r.readonly = false, "set readOnly: true"),
        (|r| r.volume_context.clear(), "only ephemeral inline volumes"),
        (
            |r| drop(r.volume_context.insert(EPHEMERAL.to_owned(), "false".to_owned())),
            "only ephemeral inline volumes",
        ),
        (|r| drop(r.secrets.insert("k".to_owned(), "v".to_owned())), "the driver takes no secrets"),
        (
            |r| drop(r.publish_context.insert("k".to_owned(), "v".to_owned())),
            "publish_context and staging_target_path must be empty",
        ),
        (|r| r.staging_target_path = "/s".to_owned(), "staging_target_path must be empty"),
    ];
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("kubelet/pods/u")).unwrap();
    std::fs::create_dir(dir.path().join("sockets")).unwrap();
    let driver = driver(dir.path());
    for (change, wanted) in cases {
        let mut request = request(dir.path());
        change(&mut request);
        let status = driver.node_publish_volume(Request::new(request)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(wanted), "{}: wanted {wanted}", status.message());
    }
    assert!(!dir.path().join("kubelet/pods/u/mount").exists(), "nothing was made");
}

#[tokio::test]
async fn the_node_and_the_driver_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let driver = driver(dir.path());
    let info = driver.get_plugin_info(Request::new(GetPluginInfoRequest {})).await.unwrap();
    let info = info.into_inner();
    assert_eq!(info.name, "csi.spiffe.io");
    assert_eq!(info.vendor_version, env!("CARGO_PKG_VERSION"));
    let node = driver.node_get_info(Request::new(NodeGetInfoRequest {})).await.unwrap();
    assert_eq!(node.into_inner().node_id, "node-1");
    let ready = |answer: Response<ProbeResponse>| answer.into_inner().ready;
    assert_eq!(ready(driver.probe(Request::new(ProbeRequest {})).await.unwrap()), Some(false));
    std::fs::create_dir(dir.path().join("sockets")).unwrap();
    assert_eq!(ready(driver.probe(Request::new(ProbeRequest {})).await.unwrap()), Some(true));
}

#[tokio::test]
async fn what_is_not_there_has_the_code_of_the_standard() {
    let dir = tempfile::tempdir().unwrap();
    let driver = driver(dir.path());
    let status = driver.node_publish_volume(Request::new(request(dir.path()))).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    std::fs::create_dir(dir.path().join("kubelet")).unwrap();
    let mut stats = NodeGetVolumeStatsRequest {
        volume_id: "v".to_owned(),
        volume_path: dir.path().join("kubelet/none").display().to_string(),
        ..NodeGetVolumeStatsRequest::default()
    };
    let status = driver.node_get_volume_stats(Request::new(stats.clone())).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    stats.volume_path = "some/path".to_owned();
    let status = driver.node_get_volume_stats(Request::new(stats.clone())).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    stats.volume_path.clear();
    let status = driver.node_get_volume_stats(Request::new(stats.clone())).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let unpublish = |volume_id: &str, target_path: &str| NodeUnpublishVolumeRequest {
        volume_id: volume_id.to_owned(),
        target_path: target_path.to_owned(),
    };
    for request in [unpublish("", "/x"), unpublish("v", ""), unpublish("v", "/etc")] {
        let status = driver.node_unpublish_volume(Request::new(request)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
}
