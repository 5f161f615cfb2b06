//! `cargo xtask`: everything a developer or continuous integration does to the workspace, as one program.
//!
//! `test` judges the tree, `generate` writes what is derived from the program. Absent: anything that ships; no other crate
//! depends on this one, and this one on none of them, so that it builds in seconds. Next: `test.rs`, then `lane.rs`.
#![expect(
    unreachable_pub,
    reason = "a program has no outside; `pub` here says which names a module gives to the others"
)]

mod bench;
mod generate;
mod harness;
mod lane;
mod packages;
mod report;
mod surroundings;
mod test;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::surroundings::Surroundings;

/// Tests the Countersign workspace, and generates the files that are derived from it.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Judges the tree: formatting, lints, documentation, dependencies, generated files, and all tests.
    ///
    /// Goes on after a step that fails, so that one run says all there is to say, and closes with `N passed, N failed`. Every
    /// step but `tests` counts as one; `tests` counts each test. What had to be skipped is printed with its reason; with
    /// CI=true it counts as failed. Missing Debian packages are installed where this runs as root; elsewhere the command
    /// that would install them is printed.
    #[command(
        after_help = "Examples:\n  cargo xtask test               all steps, as continuous integration runs them\n  \
                            cargo xtask test fmt clippy    only these two, in this order"
    )]
    Test(test::Arguments),

    /// Writes the files that are derived from the program: the OpenAPI document, the configuration and command references.
    ///
    /// Builds the program, runs its hidden `generate` command with an empty environment, and writes
    /// openapi/countersign.json, docs/configuration.md and docs/cli.md. They are committed, so that a change of the interface
    /// is seen in review; `cargo xtask test` fails while they differ from what the program says.
    #[command(after_help = "Examples:\n  cargo xtask generate            write what has changed\n  \
                            cargo xtask generate --check    write nothing, fail if something would change")]
    Generate(generate::Arguments),

    /// Measures governed actions, or evaluations, over HTTP on an empty folder, beside an endpoint that asks Cedar the same
    /// and keeps nothing.
    ///
    /// Builds the profile that is shipped, starts each server on loopback, and loads it with closed loops of 1, 8 and 64
    /// connections and open loops of fixed rates, in alternation. Prints throughput, latency from the due time, server CPU,
    /// commits, syncs, bytes written and peak memory, with a sync probe of the same minute; then the medians over the passes.
    #[command(
        after_help = "Examples:\n  cargo xtask bench                          governed actions: three passes, as tables\n  \
                            cargo xtask bench --seconds 3 --passes 1   a quick look\n  \
                            cargo xtask bench evaluations --opa /usr/bin/opa"
    )]
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = Surroundings::read().and_then(|surroundings| match arguments.verb {
        Verb::Test(arguments) => Ok(test::run(&surroundings, &arguments)),
        Verb::Generate(arguments) => generate::run(&surroundings, &arguments),
        Verb::Bench(arguments) => bench::run(&surroundings, &arguments),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed_and_each_verb_teaches_by_example() {
        let mut command = super::Arguments::command();
        command.build();
        command.clone().debug_assert();
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("cargo xtask {}", verb.get_name())), "`{}` has no example", verb.get_name());
        }
    }
}
