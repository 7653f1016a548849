//! Reading files that people name: they may be anything, and must keep nobody waiting.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::OFlags;

/// Opens a file for reading if it is a regular one. A pipe would keep its reader waiting, a device
/// may have no end, and opening one may do something.
///
/// # Errors
/// The file is not there, cannot be opened, or is of another kind.
pub fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    is_regular(&fs::metadata(path)?)?;
    // Whatever may have taken its place since: opening it does not wait either.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    is_regular(&metadata)?;
    Ok((file, metadata))
}

/// Reads a whole regular file of at most `max` bytes.
///
/// # Errors
/// As [`open_regular`], and [`io::ErrorKind::FileTooLarge`] when it is longer.
pub fn read_regular(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open_regular(path)?;
    let mut bytes = Vec::new();
    read_all(file, &metadata, max, &mut bytes)?;
    Ok(bytes)
}

/// As [`read_regular`], a text.
///
/// # Errors
/// As [`read_regular`], and [`io::ErrorKind::InvalidData`] when it is not UTF-8.
pub fn read_regular_text(path: &Path, max: u64) -> io::Result<String> {
    String::from_utf8(read_regular(path, max)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Reads what is left of an open file of at most `max` bytes into `bytes`, without moving what was
/// read as long as the file does not grow.
///
/// # Errors
/// Reading fails, or [`io::ErrorKind::FileTooLarge`].
pub fn read_all(file: File, metadata: &Metadata, max: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let too_large =
        || io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {max} bytes"));
    if metadata.len() > max {
        return Err(too_large());
    }
    bytes.reserve_exact(usize::try_from(metadata.len()).unwrap_or_default().saturating_add(1));
    // The kernel's own files have a length of zero.
    file.take(max.saturating_add(1)).read_to_end(bytes)?;
    if bytes.len() as u64 > max { Err(too_large()) } else { Ok(()) }
}

fn is_regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() { Ok(()) } else { Err(io::Error::other("not a regular file")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [&fifo, &link, &socket, dir.path(), Path::new("/dev/zero")] {
            let error = read_regular(path, 10).unwrap_err();
            assert_eq!(error.to_string(), "not a regular file", "{}", path.display());
        }
        let error = read_regular(&dir.path().join("nothing"), 10).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read_regular_text(&path, 10).unwrap(), "0123456789");
        let error = read_regular(&path, 9).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        File::create(&path).unwrap().set_len(8 << 40).unwrap();
        let error = read_regular(&path, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_regular_text(&path, 9).unwrap_err().kind(), io::ErrorKind::InvalidData);
        // A file of the kernel has content, but no length.
        assert!(!read_regular(Path::new("/proc/self/stat"), 4096).unwrap().is_empty());
        assert!(read_regular(Path::new("/proc/self/maps"), 10).is_err());
    }
}
