//! The process runner: workloads as sandboxed processes of this machine, without any other program or privilege.
#![cfg_attr(test, expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests"))]

mod canary;
mod cgroup;
mod frames;
mod procfs;
mod rundir;
mod sandbox;
mod spec;
mod sys;
pub mod workspace;

pub use canary::{Found, Trial};
pub use spec::Level;

/// d
pub fn shim_main_if_asked() {
    if std::env::args().nth(1).as_deref() == Some("__countersign-canary") {
        let r: canary::Request = serde_json::from_reader(std::io::stdin()).unwrap();
        println!("{}", serde_json::to_string(&canary::probe(&r)).unwrap());
        std::process::exit(0);
    }
}
