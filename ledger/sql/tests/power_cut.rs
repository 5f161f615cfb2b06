//! The power fails at any moment, and of what was not synced the disk has any part: every receipt that was released is
//! still there and verifies, and nothing half-written is served.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod receipts;
mod traced;
mod world;

use std::path::Path;

use receipts::{honours, released, work};
use traced::{Dice, Disk, Event, FOLDER, Lost, Trace, run, strace_or_skip};

/// What else is judged beside the image that lost everything, in turn.
const VARIANTS: [Lost; 6] =
    [Lost::Nothing, Lost::Sectors(2), Lost::Sectors(10), Lost::Calls(2), Lost::Calls(10), Lost::AllButOne];

/// Where the parent told this process to work, if it is the traced one.
fn told() -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the parent says where")]
    std::env::var(FOLDER).ok()
}

/// Before each sync, when the most can be lost; after it; after each receipt; and now and then between two writes.
/// Of all these, at most so many, spread evenly.
fn moments(events: &[Event], most: usize, dice: &mut Dice) -> Vec<usize> {
    let mut moments = Vec::new();
    for (at, event) in events.iter().enumerate() {
        let chosen = match event {
            Event::Said(text) => text.starts_with("receipt"),
            Event::Write { .. } => dice.below(24) == 0,
            _ => true,
        };
        if chosen {
            moments.push(at);
        }
    }
    let stride = moments.len().div_ceil(most);
    moments.into_iter().step_by(stride).collect()
}

/// Judges what a power cut may leave at each chosen moment. Gives how many images were judged, and each that does not hold.
async fn cut(trace: &Trace, most: usize) -> (usize, Vec<String>) {
    let mut dice = Dice::new(7);
    let chosen = moments(&trace.events, most, &mut dice);
    let (mut disk, mut next, mut judged, mut broken) = (Disk::default(), 0, 0, Vec::new());
    let mut variant = 0;
    for at in chosen {
        for event in &trace.events[next..=at] {
            disk.apply(event);
        }
        next = at + 1;
        let receipts = released(&trace.events[..next]);
        variant += 1;
        for lost in [Lost::Everything, VARIANTS[variant % VARIANTS.len()]] {
            let image = tempfile::tempdir().unwrap();
            disk.image(lost, &mut dice, image.path());
            judged += 1;
            if let Err(why) = honours(image.path(), &receipts).await {
                broken.push(format!("after event {at}, lost: {lost:?}, {} released: {why}", receipts.len()));
            }
        }
    }
    (judged, broken)
}

#[test]
fn after_a_power_cut_every_released_receipt_is_there_and_nothing_half_written_is_served() {
    const NAME: &str = "after_a_power_cut_every_released_receipt_is_there_and_nothing_half_written_is_served";
    if let Some(folder) = told() {
        work(Path::new(&folder), 2, 3, 11);
    }
    if !strace_or_skip(NAME) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = run(NAME, folder.path(), &[], &[]);
    assert!(trace.status.success(), "{:?}", trace.status);
    let all = released(&trace.events);
    assert!(all.len() > 256, "enough for a full tile: {}", all.len());
    // The log was begun anew while it was in use, or the dangerous part was not there.
    let begun = trace
        .events
        .iter()
        .filter(|event| matches!(event, Event::Write { name, offset: 0, .. } if name == "ledger.db-wal"));
    assert!(begun.count() > 4);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (judged, broken) = runtime.block_on(cut(&trace, 60));
    assert!(broken.is_empty(), "{} of {judged} images: {:#?}", broken.len(), &broken[..broken.len().min(5)]);
    assert!(judged > 100, "{judged}");
}

/// The control: the same work, the same cuts, on a system where a sync does nothing. If this held too, the test above
/// could not fail.
#[test]
fn without_syncs_a_power_cut_loses_a_released_receipt() {
    const NAME: &str = "without_syncs_a_power_cut_loses_a_released_receipt";
    if let Some(folder) = told() {
        work(Path::new(&folder), 1, 3, 6);
    }
    if !strace_or_skip(NAME) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let nothing = ["-e", "inject=fsync,fdatasync:retval=0"].map(str::to_owned);
    let trace = run(NAME, folder.path(), &nothing, &[]);
    assert!(trace.status.success(), "{:?}", trace.status);
    assert!(trace.injected.len() > 10);
    let mut disk = Disk::default();
    trace.events.iter().for_each(|event| disk.apply(event));
    let receipts = released(&trace.events);
    assert!(receipts.len() > 50);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut dice = Dice::new(11);
    let mut judge = |lost| {
        let image = tempfile::tempdir().unwrap();
        disk.image(lost, &mut dice, image.path());
        runtime.block_on(honours(image.path(), &receipts))
    };
    assert_eq!(judge(Lost::Nothing), Ok(()), "as long as the power holds");
    for lost in [Lost::Everything, Lost::Calls(10), Lost::Sectors(10)] {
        assert!(judge(lost).is_err(), "{lost:?} lost nothing");
    }
}
