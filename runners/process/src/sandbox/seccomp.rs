//! The system calls a workload may make: an allow-list, and answers that let programs fall back.
//!
//! Not listed means refused with `EPERM`: mounting, tracing, namespaces, BPF, keys, modules, `io_uring`, perf,
//! userfaultfd, clocks, reboot, quotas, swap, raw I/O, other architectures (killed). `clone3` answers `ENOSYS`,
//! because its flags are behind a pointer that a filter cannot read, and C libraries then use `clone`; so does what is
//! newer than this list, and without a control group what takes memory that no other limit counts.
//!
//! Read next: `sandbox`, which applies it last of all.

use std::collections::BTreeMap;

use countersign_runners_contract::NetworkMode;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::spec::Level;

/// Errors of building a filter; they would be ours, not the machine's.
pub(crate) type Error = seccompiler::BackendError;

/// Every namespace flag of `clone`: mount, control group, UTS, IPC, user, PID, network.
const CLONE_NEW: u64 = 0x7e02_0000;

/// Types into the controlling terminal.
const TIOCSTI: u64 = 0x5412;

/// Pastes into a virtual console.
const TIOCLINUX: u64 = 0x541c;

/// Calls that every program may make, whatever their arguments.
const ALLOWED: &[i64] = &[
    // Files.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_umask,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_utimensat,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_vmsplice,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_fgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_flistxattr,
    libc::SYS_setxattr,
    libc::SYS_fsetxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_fremovexattr,
    libc::SYS_lremovexattr,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_memfd_create,
    libc::SYS_mknodat,
    // Waiting and events.
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_signalfd4,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_pipe2,
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    libc::SYS_io_getevents,
    libc::SYS_io_cancel,
    libc::SYS_io_destroy,
    // Memory.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_mlockall,
    libc::SYS_munlockall,
    libc::SYS_brk,
    libc::SYS_membarrier,
    libc::SYS_pkey_alloc,
    libc::SYS_pkey_free,
    libc::SYS_pkey_mprotect,
    libc::SYS_get_mempolicy,
    // Processes and threads.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getpgid,
    libc::SYS_setpgid,
    libc::SYS_getsid,
    libc::SYS_setsid,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_futex,
    SYS_FUTEX_WAITV,
    libc::SYS_prctl,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_setparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_rr_get_interval,
    libc::SYS_sched_getattr,
    libc::SYS_sched_setattr,
    libc::SYS_getpriority,
    libc::SYS_setpriority,
    libc::SYS_ioprio_get,
    libc::SYS_ioprio_set,
    libc::SYS_getcpu,
    libc::SYS_capget,
    // More filters and rules can only take away.
    libc::SYS_seccomp,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
    // Who am I; changing it is harmless without privileges, and programs try.
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    // Signals and timers.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getitimer,
    libc::SYS_setitimer,
    libc::SYS_timer_create,
    libc::SYS_timer_settime,
    libc::SYS_timer_gettime,
    libc::SYS_timer_getoverrun,
    libc::SYS_timer_delete,
    libc::SYS_times,
    // Facts and limits.
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_getrlimit,
    libc::SYS_setrlimit,
    libc::SYS_getrandom,
    // Sockets, once `socket` gave one.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    // System V and POSIX IPC, private to the sandbox's namespace.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_shmdt,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semctl,
    libc::SYS_semtimedop,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_notify,
    libc::SYS_mq_getsetattr,
];

/// Numbers of calls that came after this list was made, and of some to come. Programs that try them have another way,
/// and take it when told that there is no such call.
const NEWER: std::ops::RangeInclusive<i64> = 451..=500;

/// `fchmodat2` (Linux 6.6) has the same number everywhere.
const SYS_FCHMODAT2: i64 = 452;

/// `futex_waitv` (Linux 5.16), likewise.
const SYS_FUTEX_WAITV: i64 = 449;

/// Calls that only older architectures have beside their `…at` forms.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = &[
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_unlink,
    libc::SYS_symlink,
    libc::SYS_readlink,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_getdents,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_signalfd,
    libc::SYS_inotify_init,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_getpgrp,
    libc::SYS_pause,
    libc::SYS_alarm,
    libc::SYS_time,
    libc::SYS_arch_prctl,
    libc::SYS_mknod,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];

/// The filters, to be applied in this order. The later one answers where both refuse.
pub(crate) fn filters(network: NetworkMode, level: Level) -> Result<Vec<BpfProgram>, Error> {
    // Pathname sockets of the machine are out of sight only with namespaces.
    let unix_sockets = level >= Level::L2;
    let arch = std::env::consts::ARCH.try_into()?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect();

    rules.insert(libc::SYS_clone, vec![rule([no_bits(0, CLONE_NEW)?])?]);
    // TIOCSTI and TIOCLINUX type into the terminal that the gateway was started from.
    rules.insert(libc::SYS_ioctl, vec![rule([ne(1, TIOCSTI)?, ne(1, TIOCLINUX)?])?]);
    // Its own limits alone: where the workload shares the gateway's user, it could starve the gateway otherwise.
    rules.insert(libc::SYS_prlimit64, vec![rule([eq(0, 0)?])?]);
    // No `ADDR_COMPAT_LAYOUT` and the like, which would weaken address randomisation: only the plain one and a query.
    rules.insert(libc::SYS_personality, vec![rule([eq(0, 0)?])?, rule([eq(0, 0xffff_ffff)?])?]);

    if level < Level::L2 {
        // Its own priority and processors alone, for the same reason; and no System V objects of other programs.
        for call in [
            libc::SYS_sched_setaffinity,
            libc::SYS_sched_setparam,
            libc::SYS_sched_setscheduler,
            libc::SYS_sched_setattr,
        ] {
            rules.insert(call, vec![rule([eq(0, 0)?])?]);
        }
        for call in [libc::SYS_setpriority, libc::SYS_ioprio_set] {
            rules.insert(call, vec![rule([eq(1, 0)?])?]);
        }
        for call in [libc::SYS_shmget, libc::SYS_semget, libc::SYS_msgget, libc::SYS_mq_open] {
            rules.remove(&call);
        }
    }

    let mut sockets = Vec::new();
    if unix_sockets {
        sockets.push(rule([eq(0, libc::AF_UNIX.unsigned_abs().into())?])?);
    }
    let inet = match network {
        NetworkMode::None => false,
        NetworkMode::Gateway => !unix_sockets,
        NetworkMode::Open => true,
    };
    if inet {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let family = eq(0, family.unsigned_abs().into())?;
            // The type's low bits; the rest is `SOCK_CLOEXEC` and `SOCK_NONBLOCK`. Raw and packet sockets are neither.
            let kind = |kind: i32| SeccompCondition::new(1, Len::Dword, Op::MaskedEq(0xff), kind.unsigned_abs().into());
            sockets.push(rule([family.clone(), kind(libc::SOCK_STREAM)?])?);
            if network == NetworkMode::Open {
                sockets.push(rule([family, kind(libc::SOCK_DGRAM)?])?);
            }
        }
    }
    if network == NetworkMode::Open {
        // Routes and addresses, which resolvers read.
        sockets.push(rule([eq(0, libc::AF_NETLINK.unsigned_abs().into())?, eq(2, 0)?])?);
    }
    if !sockets.is_empty() {
        rules.insert(libc::SYS_socket, sockets);
    }
    // A pair is connected to itself alone.
    rules.insert(libc::SYS_socketpair, vec![rule([eq(0, libc::AF_UNIX.unsigned_abs().into())?])?]);

    let refuse = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    let allow = SeccompFilter::new(rules, refuse(libc::EPERM), SeccompAction::Allow, arch)?;
    let mut absent: BTreeMap<i64, Vec<SeccompRule>> =
        [libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register]
            .into_iter()
            .chain(NEWER.filter(|call| *call != SYS_FCHMODAT2))
            .map(|call| (call, Vec::new()))
            .collect();
    if level < Level::L3 {
        // Memory that no limit of a process counts: only a control group would.
        for call in [libc::SYS_memfd_create, libc::SYS_shmget, libc::SYS_msgget] {
            absent.insert(call, Vec::new());
        }
    }
    let absent = SeccompFilter::new(absent, SeccompAction::Allow, refuse(libc::ENOSYS), arch)?;
    Ok(vec![allow.try_into()?, absent.try_into()?])
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, Error> {
    SeccompRule::new(conditions.into())
}

fn eq(argument: u8, value: u64) -> Result<SeccompCondition, Error> {
    SeccompCondition::new(argument, Len::Dword, Op::Eq, value)
}

fn ne(argument: u8, value: u64) -> Result<SeccompCondition, Error> {
    SeccompCondition::new(argument, Len::Dword, Op::Ne, value)
}

fn no_bits(argument: u8, bits: u64) -> Result<SeccompCondition, Error> {
    SeccompCondition::new(argument, Len::Qword, Op::MaskedEq(bits), 0)
}
