//! The style sheet, the script and the icon. Their paths change with the program's version.

/// A file that pages refer to.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// Its path.
    pub path: &'static str,
    /// Its media type.
    pub media_type: &'static str,
    /// What is in it.
    pub body: &'static str,
}

/// The style sheet.
pub const STYLE: Asset = Asset {
    path: concat!("/assets/console-", env!("CARGO_PKG_VERSION"), ".css"),
    media_type: "text/css; charset=utf-8",
    body: include_str!("../assets/console.css"),
};
/// The script.
pub const SCRIPT: Asset = Asset {
    path: concat!("/assets/console-", env!("CARGO_PKG_VERSION"), ".js"),
    media_type: "text/javascript; charset=utf-8",
    body: include_str!("../assets/console.js"),
};

/// The icon.
pub const ICON: Asset = Asset {
    path: concat!("/assets/console-", env!("CARGO_PKG_VERSION"), ".svg"),
    media_type: "image/svg+xml",
    body: include_str!("../assets/icon.svg"),
};

/// The asset of a path.
pub fn find(path: &str) -> Option<Asset> {
    [STYLE, SCRIPT, ICON].into_iter().find(|asset| asset.path == path)
}
