//! A root of its own: system folders read-only, a private `/proc`, `/dev` and `/tmp`, the workspace, nothing else.
//!
//! Called in new user, mount and PID namespaces, with the run's folder as working directory: its path may lead through
//! folders that the run's user cannot enter, so everything of the run is named relative to it.
//!
//! Read next: `sandbox`.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use countersign_runners_contract::NetworkMode;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use super::{At, Step};
use crate::spec::{DEVICES, ETC, ETC_NETWORK, INPUTS, NET, SYSTEM, SandboxSpec, WORKSPACE};
use crate::sys;

const NONE: Option<&str> = None;
/// `MOUNT_ATTR_RDONLY`, `_NOSUID`, `_NODEV`, `_NOEXEC`.
const RDONLY: u64 = 1;
const NOSUID: u64 = 2;
const NODEV: u64 = 4;
const NOEXEC: u64 = 8;

/// What could be had and what could not, where the level allows both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mounted {
    /// False where this machine does not let a `/proc` be mounted, as in most containers.
    pub proc: bool,
}

/// Builds the root and moves into it. The working directory is `/` afterwards.
pub(crate) fn enter(spec: &SandboxSpec) -> Result<Mounted, Step> {
    let root = Path::new("root");
    // Nothing that happens here may reach the machine's own mounts.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).at("make mounts private")?;
    tmpfs(root, 0o755, 1 << 20, MsFlags::MS_NOSUID | MsFlags::MS_NODEV).at("mount a root")?;

    // Before what is shown, which may lie below it.
    let tmp = root.join("tmp");
    fs::create_dir(&tmp).at("create /tmp")?;
    tmpfs(&tmp, 0o777, spec.resources.tmp_bytes, MsFlags::MS_NOSUID | MsFlags::MS_NODEV).at("mount /tmp")?;

    for path in SYSTEM {
        show(Path::new(path), root).at("bind a system folder")?;
    }
    fs::create_dir(root.join("etc")).at("create /etc")?;
    for path in ETC {
        show(Path::new(path), root).at("bind a file of /etc")?;
    }
    let user = nix::unistd::getuid();
    let group = nix::unistd::getgid();
    let passwd = format!("runner:x:{user}:{group}:runner:/tmp:/bin/sh\n");
    fs::write(root.join("etc/passwd"), passwd).at("write /etc/passwd")?;
    fs::write(root.join("etc/group"), format!("runner:x:{group}:\n")).at("write /etc/group")?;
    if spec.network == NetworkMode::Open {
        for path in ETC_NETWORK {
            show(Path::new(path), root).at("bind a network file of /etc")?;
        }
    }
    for path in &spec.read_only {
        show(path, root).at("bind a configured folder")?;
    }
    devices(root).at("set up /dev")?;

    let proc = root.join("proc");
    fs::create_dir(&proc).at("create /proc")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let has_proc = mount(Some("proc"), &proc, Some("proc"), flags, NONE).is_ok();
    if has_proc {
        seal(&proc, RDONLY | NOSUID | NODEV | NOEXEC).at("make /proc read-only")?;
    }

    fs::create_dir(root.join("run")).at("create /run")?;
    for (from, to, attributes) in [
        ("workspace", WORKSPACE, NOSUID | NODEV),
        ("inputs", INPUTS, RDONLY | NOSUID | NODEV),
        ("net", NET, RDONLY | NOSUID | NODEV | NOEXEC),
    ] {
        if from == "net" && spec.network != NetworkMode::Gateway {
            continue;
        }
        let target = below(root, Path::new(to));
        fs::create_dir_all(&target).at("create a mount point")?;
        mount(Some(from), &target, NONE, MsFlags::MS_BIND, NONE).at("bind a folder of the run")?;
        seal(&target, attributes).at("seal a folder of the run")?;
    }

    // `pivot_root(".", ".")` stacks the old root on the new one, from where it is taken off: no folder is needed for it
    // and no moment exists in which both are reachable by name.
    chdir(root).at("enter the root")?;
    pivot_root(".", ".").at("pivot the root")?;
    umount2(".", MntFlags::MNT_DETACH).at("detach the machine's root")?;
    chdir("/").at("enter the new root")?;
    // The root itself, not what is mounted on it.
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(NONE, "/", NONE, flags, NONE).at("make the root read-only")?;
    Ok(Mounted { proc: has_proc })
}

/// Puts a path of the machine at the same path below the root, read-only: a link as a link, anything else as a bind.
/// What does not exist is left out.
fn show(path: &Path, root: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    let target = below(root, path);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    if metadata.is_symlink() {
        let link = fs::read_link(path)?;
        // `/bin -> usr/bin` leads to what is shown anyway; a link out of it, as `/etc/resolv.conf` may be one, does not.
        let resolved = fs::canonicalize(path)?;
        if SYSTEM.iter().any(|system| resolved.starts_with(system)) {
            return symlink(link, target);
        }
    } else if target.exists() {
        // Already there: a configured folder inside a system folder.
        return Ok(());
    }
    if fs::metadata(path)?.is_dir() {
        fs::create_dir_all(&target)?;
    } else {
        fs::write(&target, "")?;
    }
    mount(Some(path), &target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    seal(&target, RDONLY | NOSUID | NODEV)
}

fn devices(root: &Path) -> io::Result<()> {
    let dev = root.join("dev");
    fs::create_dir(&dev)?;
    tmpfs(&dev, 0o755, 1 << 16, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC)?;
    for path in DEVICES {
        let target = below(root, Path::new(path));
        fs::write(&target, "")?;
        mount(Some(path), &target, NONE, MsFlags::MS_BIND, NONE)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, dev.join(name))?;
    }
    let shm = dev.join("shm");
    fs::create_dir(&shm)?;
    tmpfs(&shm, 0o777, 64 << 20, MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC)?;
    // The folder itself; the devices and `shm` are mounts of their own.
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    Ok(mount(NONE, &dev, NONE, flags, NONE)?)
}

fn tmpfs(path: &Path, mode: u32, size: u64, flags: MsFlags) -> io::Result<()> {
    let inodes = (size / 4096).clamp(1024, 1 << 20);
    let options = format!("size={size},nr_inodes={inodes},mode={mode:o}");
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))?;
    // The mode of a mount option is subject to nothing, but say it once more for kernels that ignore it in namespaces.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn seal(path: &Path, attributes: u64) -> io::Result<()> {
    sys::seal_mount(&CString::new(path.as_os_str().as_bytes())?, attributes)
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
