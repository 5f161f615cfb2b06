//! Promises of the whole gateway, held against the program that users run: one file a subject, a real process each.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod approvals;
mod authoring;
mod authzen;
mod backtest;
mod bad_input;
mod changes;
mod closed_to_agents;
mod commands;
mod counters;
mod crash;
mod damaged;
mod demo;
mod explaining;
mod figures;
mod first_hour;
mod folder;
mod glass;
mod grants;
mod lockout;
mod organizations;
mod paging;
mod people;
mod proving;
mod public_log;
mod queries;
mod receipts;
mod recovery;
mod roots;
mod said;
mod second_factor;
mod serving;
mod signing;
mod starting;
mod stopping;
mod tools;
mod waiting;
mod walks;
mod watching;
mod work;
