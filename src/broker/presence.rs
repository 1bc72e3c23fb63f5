//! Tells the ingest who comes and goes.
//!
//! The going of a client is offered before its id is free, so that the ingest hears of it before anything of a later
//! connection with the same id. A client whose connection is taken over has not gone: only its coming is told again.
//! What comes and goes while there is no room waits in few places, as wills do; the rest is dropped and counted.

use std::net::SocketAddr;
use std::sync::Arc;

use super::wire::Close;
use super::{Ingest, Offer, Shared, serve};
use crate::message::{Event, Presence, Timestamp};

/// What was told and is not settled yet.
pub(super) struct Told<S> {
    offer: Offer,
    /// What it was offered with.
    scratch: S,
    event: Event,
    reason: &'static str,
    at: Timestamp,
}

/// A client as others are told of it.
#[derive(Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) client: &'a str,
    pub(super) address: SocketAddr,
}

/// Tells that a client was accepted. Nobody waits for room on its account.
pub(super) fn came<I: Ingest>(who: Who<'_>, shared: &Shared<I>) {
    let told = offer(who, (Event::Connect, "", Timestamp::now()), shared);
    if let Some(Told { offer: Offer::Full, .. }) = told {
        dropped("presence_without_room", shared);
    }
}

/// Tells that a client is going.
pub(super) fn goes<I: Ingest>(who: Who<'_>, close: Close, shared: &Shared<I>) -> Option<Told<I::Scratch>> {
    if close == Close::TakenOver {
        return None;
    }
    offer(who, (Event::Disconnect, close.label(), Timestamp::now()), shared)
}

/// Waits until what was told is taken.
pub(super) async fn settle<I: Ingest>(told: Option<Told<I::Scratch>>, who: Who<'_>, shared: &Shared<I>) {
    let Some(mut told) = told else { return };
    let mut place = Arc::clone(&shared.wills).try_acquire_owned().ok();
    loop {
        match told.offer {
            Offer::Taken(_) => return,
            Offer::TakenAfter(written, _) => {
                let Some(place) = place.take() else { return };
                return serve::wait_for_disk(written, place, shared).await;
            }
            Offer::Full if shared.stop.is_cancelled() => return dropped("presence_at_shutdown", shared),
            Offer::Full if place.is_none() => return dropped("presence_without_room", shared),
            Offer::Full => {
                tokio::select! {
                    () = shared.ingest.room(&told.scratch) => {}
                    () = shared.stop.cancelled() => {}
                }
            }
        }
        match offer(who, (told.event, told.reason, told.at), shared) {
            Some(again) => told = again,
            None => return,
        }
    }
}

fn dropped<I>(reason: &'static str, shared: &Shared<I>) {
    shared.metrics.publishes_received.increment(1);
    shared.metrics.dropped(reason);
}

fn offer<I: Ingest>(
    who: Who<'_>,
    (event, reason, at): (Event, &'static str, Timestamp),
    shared: &Shared<I>,
) -> Option<Told<I::Scratch>> {
    let address = who.address.ip().to_canonical().to_string();
    let presence = Presence { event, client: who.client, address: &address, reason, at };
    let mut scratch = shared.ingest.scratch();
    let offer = shared.ingest.presence(&mut scratch, &presence)?;
    if !matches!(offer, Offer::Full) {
        shared.metrics.publishes_received.increment(1);
    }
    Some(Told { offer, scratch, event, reason, at })
}
