//! Real mounts, in a mount namespace of each test's own; skipped where that is not allowed.

use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    sync::mpsc,
};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::mount;

use super::*;

/// A node: the kubelet's directory with one pod, and a socket directory.
struct Node {
    _dir: tempfile::TempDir,
    kubelet: PathBuf,
    sockets: PathBuf,
}

impl Node {
    fn target(&self) -> String {
        self.kubelet.join("pods/u1/volumes/kubernetes.io~csi/spiffe/mount").display().to_string()
    }

    fn volumes(&self) -> Volumes {
        Volumes::new(&self.sockets, Some(&self.kubelet))
    }

    /// As after the directory was made anew by somebody who does not know better.
    fn replace_sockets(&self) {
        fs::remove_dir_all(&self.sockets).unwrap();
        fs::create_dir(&self.sockets).unwrap();
    }

    fn mounts_on_target(&self) -> usize {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let target = self.target();
        table.lines().filter(|line| line.split(' ').nth(4) == Some(target.as_str())).count()
    }

    fn options_of_target(&self) -> String {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let target = self.target();
        let line = table.lines().find(|line| line.split(' ').nth(4) == Some(target.as_str()));
        line.and_then(|line| line.split(' ').nth(5)).unwrap().to_owned()
    }
}

/// Runs a test on a thread in a mount namespace of its own, whose mounts nobody else sees.
fn on_a_node(test: fn(&Node)) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
            signet_testkit::skip!("no mount namespace: {error}");
        }
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let dir = tempfile::tempdir().unwrap();
        mount(c"none", dir.path(), c"tmpfs", MountFlags::empty(), c"mode=0755").unwrap();
        let (kubelet, sockets) = (dir.path().join("kubelet"), dir.path().join("sockets"));
        fs::create_dir_all(kubelet.join("pods/u1/volumes/kubernetes.io~csi/spiffe")).unwrap();
        fs::create_dir(&sockets).unwrap();
        let node = Node { _dir: dir, kubelet, sockets };
        test(&node);
        unmount(node.kubelet.parent().unwrap(), UnmountFlags::DETACH).unwrap();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn both_ways(node: &Node, test: impl Fn(&Node, Volumes)) {
    for detached in [true, false] {
        test(node, Volumes { detached, ..node.volumes() });
    }
}

#[test]
fn a_pod_sees_the_socket_and_can_change_nothing() {
    on_a_node(|node| {
        both_ways(node, |node, volumes| {
            let target = node.target();
            assert_eq!(volumes.publish(&target).unwrap(), Published::Now);
            let _listener = UnixListener::bind(node.sockets.join("api.sock")).unwrap();
            let seen = Path::new(&target).join("api.sock");
            std::os::unix::net::UnixStream::connect(&seen).unwrap();
            let error = fs::write(Path::new(&target).join("x"), "").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
            assert!(fs::remove_file(&seen).is_err());
            let options = node.options_of_target();
            for option in ["ro", "nosuid", "nodev", "noexec"] {
                assert!(options.split(',').any(|one| one == option), "{options}");
            }
            assert_eq!(volumes.condition(&target).unwrap(), Condition::Good);
            // The directory itself stays writable for the agent.
            fs::remove_file(node.sockets.join("api.sock")).unwrap();
            assert!(volumes.unpublish(&target).unwrap());
            assert!(!Path::new(&target).exists());
            assert!(Path::new(&target).parent().unwrap().is_dir());
        });
    });
}

#[test]
fn publishing_and_unpublishing_twice_is_as_once() {
    on_a_node(|node| {
        both_ways(node, |node, volumes| {
            let target = node.target();
            assert_eq!(volumes.publish(&target).unwrap(), Published::Now);
            assert_eq!(volumes.publish(&target).unwrap(), Published::Already);
            assert_eq!(node.mounts_on_target(), 1);
            assert!(volumes.unpublish(&target).unwrap());
            assert!(!volumes.unpublish(&target).unwrap());
            assert_eq!(node.mounts_on_target(), 0);
            fs::create_dir(&target).unwrap();
            assert_eq!(volumes.publish(&target).unwrap(), Published::Now);
            assert!(volumes.unpublish(&target).unwrap());
        });
    });
}

#[test]
fn a_copy_in_another_namespace_is_read_only_as_well() {
    on_a_node(|node| {
        // The kubelet's view: mounts of the driver's container reach it.
        let shared = MountPropagationFlags::SHARED;
        mount_bind(&node.kubelet, &node.kubelet).unwrap();
        mount_change(&node.kubelet, shared).unwrap();
        let (tell, told) = mpsc::channel::<()>();
        let (ready, unshared) = mpsc::channel::<()>();
        let target = node.target();
        let of_kubelet = std::thread::spawn({
            let target = target.clone();
            move || {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                ready.send(()).unwrap();
                told.recv().unwrap();
                let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
                table.lines().find(|line| line.contains(&format!(" {target} "))).unwrap().to_owned()
            }
        });
        unshared.recv().unwrap();
        node.volumes().publish(&target).unwrap();
        tell.send(()).unwrap();
        let line = of_kubelet.join().unwrap();
        let options = line.split(' ').nth(5).unwrap().to_owned();
        for option in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(options.split(',').any(|one| one == option), "{options}");
        }
        node.volumes().unpublish(&target).unwrap();
    });
}

#[test]
fn what_a_killed_driver_left_is_finished_or_cleared() {
    on_a_node(|node| {
        let (target, volumes) = (node.target(), node.volumes());
        // Killed after it made the directory.
        fs::create_dir(&target).unwrap();
        assert!(volumes.unpublish(&target).unwrap());
        assert!(!Path::new(&target).exists());
        // Killed between the two steps of mounting (before Linux 5.2).
        fs::create_dir(&target).unwrap();
        mount_bind(&node.sockets, &target).unwrap();
        assert_eq!(volumes.publish(&target).unwrap(), Published::Already);
        assert!(node.options_of_target().starts_with("ro,nosuid,nodev,noexec"));
        // Killed after mounting, before it answered; a driver that does not look mounts again.
        mount_bind(&node.sockets, &target).unwrap();
        assert_eq!(node.mounts_on_target(), 2);
        assert!(volumes.unpublish(&target).unwrap());
        assert_eq!(node.mounts_on_target(), 0);
        assert!(!Path::new(&target).exists());
        // Killed between unmounting and removing.
        fs::create_dir(&target).unwrap();
        assert!(volumes.unpublish(&target).unwrap());
    });
}

#[test]
fn a_directory_that_was_made_anew_is_said_to_be_and_is_mounted_anew() {
    on_a_node(|node| {
        let (target, volumes) = (node.target(), node.volumes());
        volumes.publish(&target).unwrap();
        node.replace_sockets();
        let Condition::Bad(sentence) = volumes.condition(&target).unwrap() else { panic!() };
        assert!(sentence.contains("was removed"), "{sentence}");
        assert_eq!(volumes.publish(&target).unwrap(), Published::Replaced);
        assert_eq!(volumes.condition(&target).unwrap(), Condition::Good);
        assert_eq!(node.mounts_on_target(), 1);
        volumes.unpublish(&target).unwrap();
        // Another directory.
        fs::create_dir(&target).unwrap();
        mount_bind(&node.kubelet, &target).unwrap();
        let Condition::Bad(sentence) = volumes.condition(&target).unwrap() else { panic!() };
        assert!(sentence.starts_with("another directory than"), "{sentence}");
        volumes.unpublish(&target).unwrap();
        // Nothing.
        let error = volumes.condition(&target).unwrap_err();
        assert!(matches!(error, VolumeError::Nothing(_)), "{error}");
        fs::create_dir(&target).unwrap();
        let bad = Condition::Bad("nothing is mounted here".to_owned());
        assert_eq!(volumes.condition(&target).unwrap(), bad);
    });
}

#[test]
fn without_the_socket_directory_nothing_is_left_behind_and_unpublishing_works() {
    on_a_node(|node| {
        let (target, volumes) = (node.target(), node.volumes());
        volumes.publish(&target).unwrap();
        assert!(volumes.is_ready());
        fs::remove_dir(&node.sockets).unwrap();
        assert!(!volumes.is_ready());
        assert!(volumes.unpublish(&target).unwrap());
        let error = volumes.publish(&target).unwrap_err();
        assert!(matches!(error, VolumeError::Source { .. }), "{error}");
        assert!(!Path::new(&target).exists());
    });
}

#[test]
fn files_and_links_in_the_place_of_a_volume_are_refused_and_left_alone() {
    on_a_node(|node| {
        let (target, volumes) = (node.target(), node.volumes());
        fs::write(&target, "precious").unwrap();
        for error in
            [volumes.publish(&target).unwrap_err(), volumes.unpublish(&target).unwrap_err()]
        {
            assert!(error.to_string().ends_with("is a file; a directory is expected"), "{error}");
        }
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        fs::remove_file(&target).unwrap();

        let elsewhere = node.kubelet.join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, &target).unwrap();
        for error in
            [volumes.publish(&target).unwrap_err(), volumes.unpublish(&target).unwrap_err()]
        {
            assert!(error.to_string().contains("is a symbolic link"), "{error}");
        }
        assert!(elsewhere.is_dir());
        fs::remove_file(&target).unwrap();

        // Not empty, and not ours.
        fs::create_dir(&target).unwrap();
        fs::write(Path::new(&target).join("file"), "precious").unwrap();
        let error = volumes.unpublish(&target).unwrap_err();
        assert!(error.to_string().starts_with("removing "), "{error}");
        assert_eq!(fs::read(Path::new(&target).join("file")).unwrap(), b"precious");
    });
}

#[test]
fn a_volume_in_use_does_not_keep_its_pod() {
    on_a_node(|node| {
        let (target, volumes) = (node.target(), node.volumes());
        volumes.publish(&target).unwrap();
        let held = fs::File::open(&target).unwrap();
        assert!(volumes.unpublish(&target).unwrap());
        assert!(!Path::new(&target).exists());
        drop(held);
    });
}

#[test]
fn a_pod_directory_that_is_gone_is_unpublished_already_and_cannot_be_published_to() {
    on_a_node(|node| {
        let volumes = node.volumes();
        let target = node.kubelet.join("pods/u2/volumes/x/mount").display().to_string();
        assert!(!volumes.unpublish(&target).unwrap());
        let error = volumes.publish(&target).unwrap_err();
        assert!(error.to_string().starts_with("creating "), "{error}");
    });
}
