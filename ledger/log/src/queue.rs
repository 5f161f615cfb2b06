//! The one bounded queue in front of the committer. A full queue pushes back; nothing here waits for room.
//!
//! Absent: fairness between streams, which the engine keeps by having one append in flight per stream.

use std::sync::Mutex;

use tokio::sync::Notify;

use crate::lock;

/// Why an item was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Closed,
}

pub(crate) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    ready: Notify,
    max_entries: usize,
    max_bytes: usize,
}

struct Inner<T> {
    items: Vec<T>,
    entries: usize,
    bytes: usize,
    closed: bool,
}

impl<T> Inner<T> {
    fn drain(&mut self) -> Vec<T> {
        self.entries = 0;
        self.bytes = 0;
        std::mem::take(&mut self.items)
    }
}

impl<T> Queue<T> {
    pub(crate) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            inner: Mutex::new(Inner { items: Vec::new(), entries: 0, bytes: 0, closed: false }),
            ready: Notify::new(),
            max_entries,
            max_bytes,
        }
    }

    /// Adds an item that weighs `entries` and `bytes`, or refuses it at once.
    pub(crate) fn push(&self, item: T, entries: usize, bytes: usize) -> Result<(), Refused> {
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Err(Refused::Closed);
        }
        // One item always fits an empty queue, or a large one could never be committed.
        let over = inner.entries + entries > self.max_entries || inner.bytes + bytes > self.max_bytes;
        if over && !inner.items.is_empty() {
            return Err(Refused::Full);
        }
        inner.entries += entries;
        inner.bytes += bytes;
        inner.items.push(item);
        let first = inner.items.len() == 1;
        drop(inner);
        if first {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Everything that has come; waits for the first. Empty only when the queue is closed and drained.
    pub(crate) async fn take(&self) -> Vec<T> {
        loop {
            let ready = self.ready.notified();
            {
                let mut inner = lock(&self.inner);
                if !inner.items.is_empty() || inner.closed {
                    return inner.drain();
                }
            }
            ready.await;
        }
    }

    /// Everything that has come, be it nothing.
    pub(crate) fn drain(&self) -> Vec<T> {
        lock(&self.inner).drain()
    }

    /// Takes no more; what is in it can still be taken.
    pub(crate) fn close(&self) {
        lock(&self.inner).closed = true;
        self.ready.notify_one();
    }

    /// Entries that wait.
    pub(crate) fn depth(&self) -> usize {
        lock(&self.inner).entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_pushes_back_and_a_closed_one_refuses() {
        let queue = Queue::new(4, 100);
        assert_eq!(queue.push('a', 64, 1000), Ok(()), "one item always fits");
        assert_eq!(queue.push('b', 1, 1), Err(Refused::Full));
        assert_eq!(queue.take().await, ['a']);
        for item in ['c', 'd', 'e', 'f'] {
            assert_eq!(queue.push(item, 1, 25), Ok(()));
        }
        assert_eq!(queue.push('g', 1, 0), Err(Refused::Full));
        assert_eq!(queue.depth(), 4);
        queue.close();
        assert_eq!(queue.push('h', 1, 1), Err(Refused::Closed));
        assert_eq!(queue.take().await, ['c', 'd', 'e', 'f'], "what was accepted is still committed");
        assert!(queue.take().await.is_empty());
    }

    #[tokio::test]
    async fn a_waiting_taker_is_woken_by_the_first_item() {
        let queue = std::sync::Arc::new(Queue::new(4, 100));
        let taker = tokio::spawn({
            let queue = std::sync::Arc::clone(&queue);
            async move { queue.take().await }
        });
        tokio::task::yield_now().await;
        queue.push(1, 1, 1).unwrap();
        assert_eq!(taker.await.unwrap(), [1]);
    }
}
