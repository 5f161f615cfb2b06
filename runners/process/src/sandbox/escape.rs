//! Trying to get out: what the canary does inside, where a workload would run.
//!
//! Absent: what follows from it for the machine (`canary`).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::spec::{Level, SandboxSpec};
use crate::sys;

/// What the canary must not reach.
#[derive(Debug, Clone)]
pub(crate) struct Bait {
    /// A file of the machine that everyone may read.
    pub file: PathBuf,
    /// A folder of the machine that everyone may write to.
    pub folder: PathBuf,
    /// A process outside.
    pub process: i32,
}

/// What would be a hole, by bit.
pub(crate) const BREACHES: [&str; 16] = [
    "runs as root",
    "has capabilities",
    "may gain privileges",
    "has no system call filter",
    "may mount",
    "may create namespaces",
    "may trace processes",
    "may open internet sockets",
    "may use kernel interfaces that no workload needs",
    "may use io_uring, clone3 or memory that nothing counts",
    "reads a file outside",
    "writes outside",
    "signals a process outside",
    "cannot write its workspace or /tmp",
    "sees processes of the machine",
    "may raise its limits",
];

/// Tries, from inside, everything that must fail and what must not. Gives the breaches as bits.
pub(crate) fn sing(bait: &Bait, spec: &SandboxSpec) -> u32 {
    let refused = |call: i64, arguments: [i64; 4], errno: Errno| sys::try_call(call, arguments) == Err(errno);
    let eperm = |call: i64, arguments: [i64; 4]| refused(call, arguments, Errno::EPERM);
    let (workspace, tmp) = if spec.level >= Level::L2 {
        (PathBuf::from(crate::spec::WORKSPACE), PathBuf::from("/tmp"))
    } else {
        (spec.folder.join("workspace"), spec.folder.join("tmp"))
    };
    let writes = |folder: &Path| {
        let file = folder.join(".canary");
        let written = fs::write(&file, "canary").is_ok();
        written && fs::remove_file(&file).is_ok()
    };
    let new_user = i64::from(libc::CLONE_NEWUSER);
    let inet =
        [i64::from(libc::AF_INET), i64::from(libc::AF_INET6), i64::from(libc::AF_NETLINK), i64::from(libc::AF_PACKET)];
    let breaches = [
        nix::unistd::geteuid().is_root() || nix::unistd::getuid().is_root(),
        sys::has_capabilities().unwrap_or(true),
        !nix::sys::prctl::get_no_new_privs().unwrap_or(false),
        sys::seccomp_mode() != 2,
        !eperm(libc::SYS_mount, [0; 4]) || !eperm(libc::SYS_umount2, [0; 4]) || !eperm(libc::SYS_pivot_root, [0; 4]),
        !eperm(libc::SYS_unshare, [new_user, 0, 0, 0])
            || !eperm(libc::SYS_setns, [-1, 0, 0, 0])
            || !eperm(libc::SYS_clone, [new_user, 0, 0, 0]),
        !eperm(libc::SYS_ptrace, [0; 4]) || !eperm(libc::SYS_process_vm_readv, [1, 0, 0, 0]),
        inet.iter().any(|family| !eperm(libc::SYS_socket, [*family, libc::SOCK_DGRAM.into(), 0, 0])),
        ![
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_open_by_handle_at,
            libc::SYS_init_module,
            libc::SYS_kexec_load,
            libc::SYS_syslog,
        ]
        .into_iter()
        .all(|call| eperm(call, [0; 4])),
        !refused(libc::SYS_io_uring_setup, [0; 4], Errno::ENOSYS)
            || !refused(libc::SYS_clone3, [0; 4], Errno::ENOSYS)
            || (spec.level < Level::L3 && !refused(libc::SYS_memfd_create, [0; 4], Errno::ENOSYS)),
        fs::read(&bait.file).is_ok() || fs::read("/etc/passwd").is_ok_and(|text| text.starts_with(b"root:")),
        writes(&bait.folder) || writes(Path::new("/")) || writes(Path::new("/usr")) || writes(Path::new("/dev")),
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(bait.process), None).is_ok(),
        !writes(&workspace) || !writes(&tmp),
        spec.level >= Level::L2
            && fs::read_dir("/proc").is_ok_and(|entries| {
                let numeric = |name: OsString| name.to_string_lossy().bytes().all(|b| b.is_ascii_digit());
                entries.flatten().filter(|entry| numeric(entry.file_name())).count() > 3
            }),
        getrlimit(Resource::RLIMIT_NOFILE)
            .is_ok_and(|(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, soft, hard.saturating_add(1)).is_ok()),
    ];
    breaches.iter().enumerate().filter(|(_, breach)| **breach).map(|(bit, _)| 1u32 << bit).sum()
}
