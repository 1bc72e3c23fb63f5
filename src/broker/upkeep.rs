//! What the broker does by itself: ends sessions whose client stays away, publishes the wills that waited, and writes
//! down what is to outlive the process.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::clients::Due;
use super::router::Router;
use super::store::Scribe;
use super::wire::Close;
use super::{Ingest, Shared, serve};

/// How long changes gather before they are written down.
const GATHER: Duration = Duration::from_millis(100);

/// Ends sessions and publishes wills when they are due, until the broker stops.
pub(super) async fn expire<I: Ingest>(shared: Arc<Shared<I>>) {
    // Those an earlier process left may be more than there may be now.
    while let Some(due) = shared.router.make_room() {
        hand_on(due, &shared).await;
    }
    loop {
        while !shared.stop.is_cancelled()
            && let Some(due) = shared.router.take_due(Instant::now())
        {
            hand_on(due, &shared).await;
        }
        let next = shared.router.next_due();
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.router.clients.due_changed.notified() => {}
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

/// Publishes the will of a session that has ended, and waits for nothing: where it has no room, or is not written at once,
/// it goes on by itself in its place.
async fn hand_on<I: Ingest>(due: Due, shared: &Arc<Shared<I>>) {
    let owned = Arc::clone(shared);
    let mut settled = Box::pin(async move { settle([due], Close::Lost, &owned).await });
    tokio::select! {
        biased;
        () = &mut settled => {}
        () = std::future::ready(()) => drop(shared.tasks.spawn(settled)),
    }
}

/// Publishes the wills of sessions that have ended.
pub(super) async fn settle<I: Ingest>(due: impl IntoIterator<Item = Due>, close: Close, shared: &Shared<I>) {
    for Due { client_id, will } in due {
        if let Some(will) = will {
            serve::publish_will(&will, &client_id, close, shared).await;
        }
    }
}

/// Writes changes down until the broker stops. What changes after that, [`write_changes`] has to write.
pub(super) async fn write_down<I: Ingest>(shared: Arc<Shared<I>>) {
    let Some(scribe) = &shared.router.common.scribe else { return };
    write_everything(&shared.router).await;
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = scribe.store.outgrown() => write_everything(&shared.router).await,
            () = scribe.wake.notified() => {
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    () = tokio::time::sleep(GATHER) => {}
                }
                write_changes(&shared.router);
            }
        }
    }
}

/// Writes down what has changed.
pub(super) fn write_changes(router: &Router) {
    let Some(scribe) = &router.common.scribe else { return };
    let (sessions, topics) = scribe.take();
    let mut writer = scribe.writer();
    sessions.iter().for_each(|session| session.write(&mut writer, false));
    for topic in topics {
        let message = router.retained.lock().get(&topic).cloned();
        writer.retained(&topic, message.as_ref());
    }
}

/// Writes everything anew. What changes meanwhile is written as well, before or after.
pub(super) async fn write_everything(router: &Router) {
    let Some(scribe) = &router.common.scribe else { return };
    scribe.store.begin_anew();
    for session in router.sessions() {
        room(router, scribe).await;
        session.write(&mut scribe.writer(), true);
    }
    for message in router.retained_messages() {
        room(router, scribe).await;
        scribe.writer().retained(&message.topic, Some(&message));
    }
    // Among this is what changed between being listed here and being written.
    write_changes(router);
    scribe.store.written_anew();
}

/// Waits for room in the store. Changes are written meanwhile: a disk that hangs costs what the store may hold, not
/// memory for as long as it hangs.
async fn room(router: &Router, scribe: &Scribe) {
    loop {
        tokio::select! {
            biased;
            () = scribe.store.room() => return,
            () = tokio::time::sleep(GATHER) => write_changes(router),
        }
    }
}
