//! `cargo xtask package`: .deb, .rpm and OCI images of built programs, with their bills of materials.
//!
//! The same sources and programs make the same files, byte for byte: nothing of them depends on when,
//! where or by whom they were made.

mod image;
mod sbom;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::run::{finished, metadata, root, run};

/// What makes .deb and .rpm of one description. Its module's later versions ask for modules that the
/// public proxy does not have.
const NFPM: &str = "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.44.0";

/// A program that is packaged.
pub(crate) struct Program {
    /// The name of the program, of its cargo package and of its package.
    pub(crate) name: &'static str,
    /// Its description below `deploy/packages`, if it is for machines with a package manager.
    package: Option<&'static str>,
    /// Whether it prints its manual page and completion scripts.
    has_texts: bool,
    /// The user, working directory and entry point of its image, if it has one.
    image: Option<image::Settings>,
}

/// The programs that are released.
pub(crate) const PROGRAMS: &[Program] = &[
    Program {
        name: "signet-server",
        package: Some("server.yaml"),
        has_texts: true,
        image: Some(image::Settings {
            user: "65532:65532",
            directory: "/opt/spire",
            entry_point: &["/opt/spire/bin/spire-server", "run"],
        }),
    },
    Program {
        name: "signet-agent",
        package: Some("agent.yaml"),
        has_texts: true,
        image: Some(image::Settings {
            // The directories of a node that it uses belong to root.
            user: "0:0",
            directory: "/opt/spire",
            entry_point: &["/opt/spire/bin/spire-agent", "run"],
        }),
    },
    Program {
        name: "signet-controller",
        package: None,
        has_texts: true,
        image: Some(image::Settings {
            user: "65532:65532",
            directory: "/",
            entry_point: &["/usr/bin/signet-controller"],
        }),
    },
    Program {
        name: "signet-broker",
        package: Some("broker.yaml"),
        has_texts: true,
        image: Some(image::Settings {
            user: "65532:65532",
            directory: "/",
            entry_point: &["/usr/bin/signet-broker", "run"],
        }),
    },
    Program {
        name: "signet-oidc",
        package: Some("oidc.yaml"),
        has_texts: true,
        image: Some(image::Settings {
            user: "65532:65532",
            directory: "/",
            entry_point: &["/usr/bin/signet-oidc"],
        }),
    },
    Program {
        name: "signet-helper",
        package: Some("helper.yaml"),
        has_texts: false,
        image: Some(image::Settings {
            user: "65532:65532",
            directory: "/",
            entry_point: &["/usr/bin/signet-helper"],
        }),
    },
];

/// What to package, and where to.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The directory of the built programs [default: target/release]
    #[arg(long, value_name = "DIR")]
    pub(crate) bins: Option<PathBuf>,
    /// The architecture that they were built for
    #[arg(long, value_name = "ARCH", default_value = Arch::here().debian())]
    pub(crate) arch: Arch,
    /// Where the packages go [default: target/packages]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Their version [default: that of the workspace]
    #[arg(long, value_name = "VERSION")]
    pub(crate) version: Option<String>,
    /// Only these programs [default: all]
    #[arg(long = "program", value_name = "NAME")]
    pub(crate) programs: Vec<String>,
}

/// An architecture that is released for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    /// x86-64
    Amd64,
    /// 64-bit Arm
    Arm64,
}

impl Arch {
    /// That of this machine.
    pub(crate) const fn here() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 }
    }

    /// As Debian, Go and OCI call it.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As Rust calls the target.
    pub(crate) const fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// Everything that is the same for all packages of one run.
pub(crate) struct Making {
    arch: Arch,
    version: String,
    /// Seconds since 1970 that every file carries: the time of the last commit.
    time: u64,
    out: PathBuf,
    stage: PathBuf,
}

/// Makes the packages and prints where they are.
pub(crate) fn run_all(options: &Options) -> Result<()> {
    let target = target_dir()?;
    let bins = options.bins.clone().unwrap_or_else(|| target.join("release"));
    let version = match &options.version {
        Some(version) => version.clone(),
        None => version()?,
    };
    let out = options.out.clone().unwrap_or_else(|| target.join("packages"));
    fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    let stage = tempfile::tempdir().context("making a directory")?;
    let making = Making {
        arch: options.arch,
        version,
        time: commit_time()?,
        out: fs::canonicalize(&out).with_context(|| out.display().to_string())?,
        stage: stage.path().to_owned(),
    };
    for name in &options.programs {
        if !PROGRAMS.iter().any(|program| program.name == name) {
            bail!("-program {name}: no such program is released");
        }
    }
    let wanted = |program: &&Program| {
        options.programs.is_empty() || options.programs.iter().any(|name| name == program.name)
    };
    for program in PROGRAMS.iter().filter(wanted) {
        making.program(program, &bins).with_context(|| program.name)?;
    }
    making.checksums()
}

impl Making {
    fn program(&self, program: &Program, bins: &Path) -> Result<()> {
        let binary = bins.join(program.name);
        let staged = self.stage.join(program.name);
        fs::copy(&binary, &staged).with_context(|| {
            format!("{} is not there: build it with `cargo build --release`", binary.display())
        })?;
        let bill = sbom::of(program.name, &self.version, self.arch)?;
        let name = self.file(program.name, "cdx.json");
        fs::write(self.out.join(&name), &bill).with_context(|| name.clone())?;
        fs::write(self.stage.join(format!("{}.cdx.json", program.name)), &bill)?;
        if let Some(description) = program.package {
            if program.has_texts {
                self.texts(program.name)?;
            }
            for format in ["deb", "rpm"] {
                self.nfpm(program.name, description, format)?;
            }
        }
        if let Some(settings) = &program.image {
            image::make(self, program.name, &staged, settings)?;
        }
        Ok(())
    }

    /// The manual page and the completion scripts, as the program prints them itself.
    fn texts(&self, name: &str) -> Result<()> {
        let page = self.printed(name, &["manual"])?;
        let file = self.stage.join(format!("{name}.8"));
        fs::write(&file, page).with_context(|| file.display().to_string())?;
        // -n: without the time and name of the file.
        run(Command::new("gzip").args(["-9nf"]).arg(&file))?;
        for shell in ["bash", "fish", "zsh"] {
            let script = self.printed(name, &["completion", shell])?;
            let file = self.stage.join(format!("{name}.{shell}"));
            fs::write(&file, script).with_context(|| file.display().to_string())?;
        }
        Ok(())
    }

    /// What a staged program prints; a foreign one runs under qemu, if that is set up.
    fn printed(&self, name: &str, args: &[&str]) -> Result<String> {
        let mut command = match self.arch == Arch::here() {
            true => Command::new(self.stage.join(name)),
            false => {
                let mut command = Command::new(match self.arch {
                    Arch::Arm64 => "qemu-aarch64-static",
                    Arch::Amd64 => "qemu-x86_64-static",
                });
                command.arg("-L").arg(sysroot(self.arch)).arg(self.stage.join(name));
                command
            }
        };
        command.args(args);
        finished(&mut command)
    }

    fn nfpm(&self, name: &str, description: &str, format: &str) -> Result<()> {
        let file = self.out.join(self.file(name, format));
        run(Command::new(nfpm()?)
            .current_dir(root())
            .env("NFPM_ARCH", self.arch.debian())
            .env("NFPM_VERSION", &self.version)
            .env("SOURCE_DATE_EPOCH", self.time.to_string())
            .env("STAGE", &self.stage)
            .args(["package", "--packager", format, "--config"])
            .arg(Path::new("deploy/packages").join(description))
            .arg("--target")
            .arg(file))
    }

    /// The name of a file that is made: `signet-server_0.1.0_amd64.deb`.
    pub(crate) fn file(&self, name: &str, ending: &str) -> String {
        format!("{name}_{}_{}.{ending}", self.version, self.arch.debian())
    }

    /// `SHA256SUMS` of all that is in the directory, as `sha256sum -c` reads it.
    fn checksums(&self) -> Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.out).with_context(|| self.out.display().to_string())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with("SHA256SUMS") {
                names.push(name);
            }
        }
        names.sort_unstable();
        let mut command = Command::new("sha256sum");
        command.current_dir(&self.out).args(&names);
        let sums = finished(&mut command)?;
        fs::write(self.out.join("SHA256SUMS"), &sums).context("writing SHA256SUMS")?;
        print!("{sums}");
        println!("in {}", self.out.display());
        Ok(())
    }
}

/// Where Debian's cross compilers keep the libraries of an architecture.
pub(crate) fn sysroot(arch: Arch) -> PathBuf {
    match arch {
        Arch::Arm64 => "/usr/aarch64-linux-gnu".into(),
        Arch::Amd64 => "/usr/x86_64-linux-gnu".into(),
    }
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    let target = metadata.get("target_directory").and_then(|dir| dir.as_str());
    Ok(target.context("cargo metadata names no target directory")?.into())
}

/// The version of the workspace.
pub(crate) fn version() -> Result<String> {
    let metadata = metadata()?;
    let packages = metadata.get("packages").and_then(|packages| packages.as_array());
    let server = packages
        .into_iter()
        .flatten()
        .find(|package| package.get("name").is_some_and(|name| name == "signet-server"));
    let version = server.and_then(|server| server.get("version")).and_then(|text| text.as_str());
    Ok(version.context("cargo metadata has no version of signet-server")?.to_owned())
}

/// The time of the last commit, in seconds since 1970; `SOURCE_DATE_EPOCH` goes first.
fn commit_time() -> Result<u64> {
    if let Ok(time) = env::var("SOURCE_DATE_EPOCH") {
        return time.parse().with_context(|| format!("SOURCE_DATE_EPOCH={time:?} is no time"));
    }
    let mut command = Command::new("git");
    command.current_dir(root()).args(["log", "-1", "--format=%ct"]);
    let text = finished(&mut command)
        .context("the sources are in no git repository: set SOURCE_DATE_EPOCH")?;
    text.trim().parse().with_context(|| format!("git answers {text:?} for a time"))
}

/// The program that makes packages; built once, below `target`.
fn nfpm() -> Result<PathBuf> {
    let dir = target_dir()?.join("tools/bin");
    let program = dir.join("nfpm");
    if !program.is_file() {
        run(Command::new("go")
            .env("GOBIN", &dir)
            .env("GOFLAGS", "-mod=mod")
            .args(["install", NFPM]))?;
    }
    Ok(program)
}
