//! The system calls that have no safe wrapper, each with the reason why its use is sound.
//!
//! This is the only module of the project with `unsafe`. Absent: decisions. Every function does one call.
//!
//! Read next: `sandbox`, which strings them together.
#![expect(unsafe_code, reason = "fork, capset, mount_setattr and close_range have no safe wrapper in std or nix")]

use std::ffi::CStr;
use std::io;
use std::mem::size_of;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Pid};

/// Splits this process in two. Refused unless it has one thread: after that, the child may do whatever a process may,
/// because no lock can be held by a thread that does not exist in it.
pub(crate) fn fork_single_threaded() -> io::Result<Option<Pid>> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    // Without a /proc to ask, callers are the stages in `lib.rs`, which start no thread before they fork.
    if threads > 1 {
        return Err(io::Error::other("this process has more than one thread, so it cannot be forked"));
    }
    // SAFETY: checked above: no other thread exists, so no lock is held and no allocation is half done in the child.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Leaves at once: no destructors, no `atexit`, no flushing of buffers that the parent holds as well.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no precondition and does not return.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: plain integers. Callers hold no owned descriptor at or above `first` that they use afterwards: they are
    // in a forked child that has moved what it needs below.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Duplicates `from` onto `to`, for numbers that no Rust value owns. The copy survives `exec`.
pub(crate) fn duplicate_onto(from: i32, to: i32) -> io::Result<()> {
    // SAFETY: plain integers. Callers are in a forked child, choose numbers that no owned value in use has, and name
    // descriptors that they were given.
    let done = unsafe { libc::dup2(from, to) };
    if done == to { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes a descriptor when a program is executed.
pub(crate) fn close_on_exec(number: i32) -> io::Result<()> {
    // SAFETY: plain integers; a number that is not open gives an error.
    let done = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes to a descriptor that is known by its number.
pub(crate) fn write_number(number: i32, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length are of one live slice; a number that is not open gives an error.
    let written = unsafe { libc::write(number, bytes.as_ptr().cast(), bytes.len()) };
    if usize::try_from(written) == Ok(bytes.len()) { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives a signal its default action back.
pub(crate) fn default_action(signal: Signal) -> nix::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of this process.
    unsafe { sigaction(signal, &default) }.map(drop)
}

/// Takes ownership of a descriptor that this process was started with.
pub(crate) fn inherited(number: i32) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd as _;
    // SAFETY: `F_GETFD` has no effect on memory.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, checked above, and the stages in `lib.rs` and the forked children call this once per number,
    // for numbers that no other value owns.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(number) })
}

/// Makes a mount tree read-only and takes set-user-id from it, recursively and without touching flags that are locked
/// (Linux 5.12).
pub(crate) fn seal_mount(path: &CStr, attributes: u64) -> io::Result<()> {
    const AT_RECURSIVE: libc::c_uint = 0x8000;
    let attr = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: `path` is NUL-terminated and `attr` is a live, fully initialised structure of the size that is passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            AT_RECURSIVE,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAP_VERSION: u32 = 0x2008_0522;

/// Gives up every capability: bounding, ambient, inheritable, permitted, effective. `exec` gives none back.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    for capability in 0..=63 {
        // SAFETY: plain integers.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        // The kernel knows fewer than 64. Without CAP_SETPCAP the set cannot be narrowed, which an unprivileged
        // process needs no more than it has it: `no_new_privs` and the empty sets below hold all the same.
        if done != 0 && Errno::last() == Errno::EINVAL {
            break;
        }
    }
    // SAFETY: plain integers. Fails only where ambient capabilities do not exist.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    let header = CapHeader { version: CAP_VERSION, pid: 0 };
    let none = [CapData { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 takes one header and two data structures, which is what the pointers lead to.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// True if this process has any effective or permitted capability.
pub(crate) fn has_capabilities() -> io::Result<bool> {
    let header = CapHeader { version: CAP_VERSION, pid: 0 };
    let mut data = [CapData { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 takes one header and writes two data structures, which is what the pointers lead to.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(data.iter().any(|set| set.effective != 0 || set.permitted != 0))
}

/// The seccomp mode of this process: 0 none, 2 filter.
pub(crate) fn seccomp_mode() -> i32 {
    // SAFETY: plain integers. Strict mode, in which this call would kill, is never set here.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) }
}

/// Tries a system call with six plain numbers and gives its error. Only for calls that the canary expects to be
/// refused, and whose success with these arguments does no harm.
pub(crate) fn try_call(number: i64, arguments: [i64; 4]) -> Result<i64, Errno> {
    let [a, b, c, d] = arguments;
    // SAFETY: the canary passes numbers, null pointers and descriptors of its own; no call of its list writes to memory
    // through them, and it runs in a process of its own that ends afterwards.
    let result = unsafe { libc::syscall(number, a, b, c, d, 0, 0) };
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}

/// The Landlock version of this kernel, 0 if there is none.
pub(crate) fn landlock_version() -> i64 {
    const VERSION: u32 = 1;
    // SAFETY: a null pointer of size zero with this flag asks for the version and touches no memory.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0, VERSION) };
    version.max(0)
}
